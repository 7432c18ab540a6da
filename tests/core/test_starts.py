"""Rigs that wait for one instant: their clocks are measured until it comes (docs/protocol.md section 3)."""

from __future__ import annotations

import itertools

import pytest

from rigsync.core import messages
from rigsync.core.liveness import MOST_A_SECOND
from rigsync.core.messages import Probe, Request
from rigsync.core.peer import Peer
from rigsync.core.requests import MEASURED, QUIET
from rigsync.testing import Coordinator, SimAddress, SimNetwork

REFERENCE = "2026-03-01_2_mouse"
JITTER = (0.001, 0.006)


class Watched(SimNetwork):
    """A network that notes when which frames leave to which rig."""

    def __init__(self, seed: int, **network: tuple[float, float]):
        super().__init__(seed, **network)
        self.sent: list[tuple[float, str, type]] = []

    def send(self, data: bytes, source: SimAddress, destination: SimAddress) -> None:
        """Note a datagram, and carry it."""
        self.sent.append((self.now, destination[0], type(messages.decode(data))))
        super().send(data, source, destination)

    def times(self, kind: type, rig: str = "10.0.1.1") -> list[float]:
        """Return when frames of a kind left to a rig."""
        return [when for when, to, sent in self.sent if to == rig and sent is kind]


def lab(count: int = 1, seed: int = 1, **network: tuple[float, float]) -> tuple[Watched, Coordinator]:
    """Return some rigs that are initialised, and their coordinator, which has known them for 3 s."""
    net = Watched(seed, **network)
    for number in range(count):
        net.add_rig(f"rig{number}", {"EXPINIT": 0.0, "EXPSTART": 0.01}, offset=net.random.uniform(-5, 5))
    coordinator = net.coordinator()
    net.run(1.0)
    coordinator.push("EXPINIT", REFERENCE)
    net.run(2.0)
    net.sent = []
    return net, coordinator


def most_in(times: list[float], seconds: float) -> int:
    return max((sum(begin <= when < begin + seconds for when in times) for begin in times), default=0)


def test_while_a_push_waits_for_its_instant_its_rig_is_probed_every_10_ms() -> None:
    net, coordinator = lab()
    when = coordinator.push("EXPSTART", REFERENCE, delay=0.4)
    begun = net.now
    assert net.run(2.0, until=lambda: when in coordinator.results)
    assert not coordinator.results[when].failures
    probes = net.times(Probe)
    assert 33 <= len(probes) <= 62  # 10 ms, or sooner by up to 0.3 of that
    assert all(later - earlier <= 0.0101 for earlier, later in itertools.pairwise(probes))
    assert begun <= probes[0] <= begun + 0.011
    net.sent = []
    net.run(3.0)
    assert len(net.times(Probe)) <= 4  # the beat again


@pytest.mark.parametrize("delay", [10.0, 600.0])
def test_a_long_wait_is_measured_in_its_last_2_s_only(delay: float) -> None:
    net, coordinator = lab()
    instant = net.now + delay
    when = coordinator.push("EXPSTART", REFERENCE, delay=delay)
    assert net.run(delay + 1, until=lambda: when in coordinator.results)
    before = [sent for sent in net.times(Probe) if sent < instant - MEASURED]
    assert len(before) <= delay - MEASURED + 2
    last = [sent for sent in net.times(Probe) if sent >= instant - MEASURED]
    assert 190 <= len(last) <= 300
    assert len([sent for sent in net.times(Request) if sent >= instant - MEASURED]) <= 10


def test_what_is_called_off_is_not_measured_any_more() -> None:
    net, coordinator = lab()
    coordinator.push("EXPSTART", REFERENCE, delay=2.0)
    net.run(0.5)
    coordinator.push("EXPINTERRUPT")
    net.run(0.1)
    net.sent = []
    net.run(1.0)
    assert len(net.times(Probe)) <= 2


def test_a_rig_that_is_gone_is_not_probed_more_often() -> None:
    net, coordinator = lab()
    coordinator.push("EXPSTART", REFERENCE, delay=20.0)
    net.run(1.0)
    net.rigs["rig0"].host_up = net.rigs["rig0"].listening = False
    net.run(17.1)
    net.sent = []
    net.run(1.0)
    assert len(net.times(Probe)) <= 2


def test_many_rigs_share_the_probes() -> None:
    net, count = Watched(1), 128
    for number in range(count):
        net.add_rig(f"rig{number}")
    coordinator = net.coordinator()
    net.run(0.25)  # past the burst
    net.sent = []
    coordinator.push("EXPINIT", REFERENCE, delay=0.25)
    net.run(0.25)
    probes = len([kind for _, _, kind in net.sent if kind is Probe])
    assert MOST_A_SECOND * 0.25 / 2 <= probes <= MOST_A_SECOND * 0.25 / 0.7 + count


@pytest.mark.parametrize(("count", "least", "most"), [(3, 0.025, 0.06), (256, 0.08, 0.1)])
def test_to_many_rigs_a_request_is_sent_again_later(count: int, least: float, most: float) -> None:
    net = Watched(1)
    for number in range(count):
        net.add_rig(f"rig{number}")
    coordinator = net.coordinator()
    net.run(0.2)  # each has answered a probe
    for rig in net.rigs.values():
        rig.host_up = rig.listening = False
    coordinator.push("EXPINFO")
    net.run(0.15)
    first, second, *_ = net.times(Request)
    assert least <= second - first <= most


def test_a_large_message_is_not_sent_again_for_the_sake_of_its_instant() -> None:
    net, coordinator = lab()
    coordinator.push("EXPSTART", REFERENCE, {"notes": "x" * 5000}, delay=0.5)
    net.run(0.45)
    assert len(net.times(Request)) == 1


def test_the_instant_is_sent_anew_until_it_comes() -> None:
    net, coordinator = lab(delay=JITTER)
    instant = net.now + 0.4
    coordinator.push("EXPSTART", REFERENCE, delay=0.4)
    net.run(1.0)
    sent = net.times(Request)
    assert 4 <= len(sent) <= 7
    assert instant - 0.08 <= max(when for when in sent if when < instant) <= instant


@pytest.mark.parametrize("delay", [0.2, 0.4, 3.0])
def test_shortly_before_the_instant_rigs_are_not_probed(delay: float) -> None:
    net, coordinator = lab(4, delay=JITTER)
    instant = net.now + delay
    when = coordinator.push("EXPINFO", delay=delay)
    assert net.run(delay + 1.0, until=lambda: when in coordinator.results)
    late = [kind for sent, _, kind in net.sent if instant - QUIET < sent < instant]
    assert late.count(Probe) <= 4  # one each, of a beat


def spread(seed: int, drift: float) -> float:
    """Return the seconds between the first and the last of four starts behind 1 to 6 ms of jitter."""
    net = SimNetwork(seed, delay=JITTER)
    for number in range(4):
        net.add_rig(
            f"rig{number}",
            {"EXPINIT": 0.0, "EXPSTART": 0.01},
            offset=net.random.uniform(-5, 5),
            drift=net.random.uniform(-drift, drift),
        )
    coordinator = net.coordinator()
    net.run(1.0)
    coordinator.push("EXPINIT", REFERENCE)
    net.run(2.0)
    when = coordinator.push("EXPSTART", REFERENCE, delay=0.4)
    assert net.run(2.0, until=lambda: when in coordinator.results)
    result = coordinator.results[when]
    assert len(result.starts) == 4
    entered = {name: rig.entered[-1] for name, rig in net.rigs.items()}  # type: ignore[union-attr]
    for first, start in result.starts.items():
        for other, another in result.starts.items():
            told, true = start.time - another.time, entered[first] - entered[other]
            assert abs(told - true) <= start.bound + another.bound + 1e-6
    return max(entered.values()) - min(entered.values())


@pytest.mark.parametrize(("drift", "most"), [(0.0, 0.0003), (20e-6, 0.00033)])
def test_starts_lie_within_03_ms_in_jitter_of_5_ms(drift: float, most: float) -> None:
    spreads = sorted(spread(seed, drift) for seed in range(40))
    assert spreads[37] <= most
    assert spreads[20] <= most / 2


def test_a_timer_and_an_answer_of_one_rig_ask_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    net, count = SimNetwork(1), 40
    for number in range(count):
        net.add_rig(f"rig{number}")
    coordinator = net.coordinator()
    net.run(1.5)
    asked: list[str] = []
    next_timer = Peer.next_timer

    def note(peer: Peer) -> float:
        asked.append(peer.name)
        return next_timer(peer)

    monkeypatch.setattr(Peer, "next_timer", note)
    when = coordinator.push("EXPSTATUS", rigs=["rig7"])
    assert net.run(1.0, until=lambda: when in coordinator.results)
    assert set(asked) == {"rig7"}
    asked.clear()
    coordinator.fanout.handle_timer(net.now)
    assert len(asked) <= 2
