"""An hour of a lab in virtual time: eight rigs, clocks that drift, and everything that goes wrong, in random order."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import count
from random import Random

import pytest

from rigsync.core.enums import ExpMessage, ExpStatus
from rigsync.core.events import Notice, PushCompleted
from rigsync.errors import RigError
from rigsync.testing import EPOCH, Coordinator, FakeRig, SimNetwork

HOUR = 3600.0
LEASE = 60.0
RIGS = [f"rig{i}" for i in range(8)]
HEALED = 45.0
"""Seconds after which every trouble is over and every push settled."""


@pytest.fixture(autouse=True)
def nothing_left_behind() -> None:
    """Skip the search for leaks: nothing here opens anything."""


@dataclass
class Push:
    """What was asked, of whom, by which coordinator."""

    coordinator: Coordinator
    key: float
    event: str
    tag: str
    pushed_at: float
    delay: float | None


class Lab:
    """A network of eight rigs, a coordinator in charge, one that watches, and a source of trouble."""

    def __init__(self, seed: int):
        self.random = Random(seed)
        self.seed = seed
        self.network = SimNetwork(seed, loss=0.02, duplication=0.02, reordering=0.05, delay=(0.0002, 0.002))
        self.tags = (f"tag{i}" for i in count())
        self.pushes: list[Push] = []
        for name in RIGS:
            drift = self.random.uniform(-50e-6, 50e-6)
            offset = self.random.uniform(-600, 600)
            handlers = {event.name: self.random.choice([0.0, 0.002, 0.3]) for event in ExpMessage.__members__.values()}
            self.network.add_rig(name, handlers, offset=offset, drift=drift, lease=LEASE)
        self.rigs = {name: rig for name, rig in self.network.rigs.items() if isinstance(rig, FakeRig)}
        self.watcher = self.network.coordinator()
        self.notified: dict[tuple[str, str], list[int]] = {}
        self.gone: list[Coordinator] = []
        self.begin()

    def begin(self) -> None:
        """Start a coordinator."""
        self.coordinator = self.network.coordinator()

    def push(self, event: str, delay: float | None = None) -> Push:
        """Push a message whose argument tells it from all others."""
        tag = next(self.tags)
        args = {"EXPSTART": [None, tag]}.get(event, [{"tag": tag}] if event != "EXPINFO" else ["CONNECTED", tag])
        key = self.coordinator.push(event, *args, timeout=10, delay=delay)
        self.pushes.append(Push(self.coordinator, key, event, tag, self.network.now, delay))
        return self.pushes[-1]

    def session(self, end: float) -> None:
        """Play one session, with something going wrong in the middle, perhaps."""
        network, random = self.network, self.random
        self.push("EXPINIT")
        network.run(random.uniform(0, 3))
        self.trouble()
        self.push("EXPSTART", delay=random.choice([None, 0.5, 2.0]))
        network.run(random.uniform(0, 5))
        self.trouble()
        for _ in range(random.randrange(4)):
            self.push("EXPINFO")
            network.run(random.uniform(0, 3))
            self.notify()
        self.push(random.choice(["EXPEND", "EXPINTERRUPT"]))
        network.run(random.uniform(0, 5))
        self.push("EXPCLEANUP")
        network.run(min(random.uniform(5, 60), max(0.0, end - network.now)))
        self.check_clocks()

    def notify(self) -> None:
        """Have a rig tell something, if the one that watches has told it so: its process may be a new one."""
        rig = self.random.choice(list(self.rigs.values()))
        boot = rig.responder._boot
        if self.watcher.fanout.peers[rig.name].process.boot != boot:
            return
        heard = self.notified.setdefault((rig.name, boot), [])
        heard.append(len(heard))
        rig.notify("frames", [boot, heard[-1]])

    def trouble(self) -> None:
        """Let one thing go wrong, or nothing; whatever it is ends by itself within half a minute."""
        network, random = self.network, self.random
        rig = random.choice(list(self.rigs.values()))
        kind = random.randrange(8)
        if kind == 0:
            rig.restart()
        elif kind == 1:
            hosts = {other.address[0] for other in random.sample(list(self.rigs.values()), 3)}
            network.cut_off |= hosts
            network.after(random.uniform(1, 30), lambda: network.cut_off.difference_update(hosts))
        elif kind == 2:
            rig.listening = False

            def start_again() -> None:
                rig.restart()
                rig.listening = True

            network.after(random.uniform(0.1, 10), start_again)
        elif kind == 3:
            network.loss = 0.4
            network.after(random.uniform(1, 20), lambda: setattr(network, "loss", 0.02))
        elif kind == 4:
            network.delay = (0.002, 0.2)
            network.after(random.uniform(1, 20), lambda: setattr(network, "delay", (0.0002, 0.002)))
        elif kind == 5:
            self.crash()

    def crash(self) -> None:
        """Kill the coordinator; after its lease no rig may be at work, whatever the network did meanwhile."""
        network = self.network
        self.gone.append(self.coordinator)
        network.kill(self.coordinator)
        if self.random.random() < 0.5:
            network.run(LEASE + 1)
            working = {rig.name: rig.responder.agenda.status.name for rig in self.rigs.values() if self.is_working(rig)}
            assert not working, f"seed {self.seed}: {working} a minute after the coordinator in charge was killed"
        self.begin()
        network.run(1)
        self.push("EXPINTERRUPT")

    @staticmethod
    def is_working(rig: FakeRig) -> bool:
        return rig.responder.agenda.status in (ExpStatus.INITIALIZED, ExpStatus.RUNNING)

    def check_clocks(self) -> None:
        """Compare each estimate with the truth."""
        now = self.network.now
        ours = self.coordinator.fanout._stamps.stamp(now)
        for name, peer in self.coordinator.fanout.peers.items():
            if clock := peer.clock:
                truth = (self.rigs[name].clock.stamp(now) - ours) / 1e9
                # As of the last sample, which may be as old as a partition is long.
                allowed = clock.bound + 100e-6 * 60
                assert abs(clock.offset - truth) <= allowed, f"seed {self.seed}: {name} {clock} {truth}"

    # ------------------------------------------------------------------------------------------------- afterwards

    def runs(self) -> Counter[tuple[str, str]]:
        """Return how often each rig ran a handler for each tag."""
        return Counter(
            (rig.name, argument if isinstance(argument, str) else argument["tag"])
            for rig in self.rigs.values()
            for event, args in rig.calls
            for argument in [args[-1]]
            if argument and not (isinstance(argument, dict) and "reason" in argument)
        )

    def check(self) -> dict[str, int]:
        """Hold every invariant against what has happened; return how much of what."""
        seen: Counter[str] = Counter()
        runs = self.runs()
        assert max(runs.values()) == 1, f"seed {self.seed}: {[key for key, n in runs.items() if n > 1]} ran twice"
        for push in self.pushes:
            outcome = push.coordinator.results.get(push.key)
            if outcome is None:
                assert push.coordinator in self.gone, f"seed {self.seed}: {push.event} {push.tag} was never settled"
                seen["cut short"] += 1
                continue
            for rig in RIGS:
                self.check_outcome(push, rig, outcome, runs[rig, push.tag], seen)
        self.check_notices(seen)
        return seen

    def check_outcome(self, push: Push, rig: str, outcome: PushCompleted, ran: int, seen: Counter[str]) -> None:
        where = f"seed {self.seed}: {push.event} {push.tag} on {rig}"
        if error := outcome.failures.get(rig):
            assert isinstance(error, RigError), where
            seen[type(error).__name__] += 1
            return
        answer = outcome.answers[rig]
        seen["succeeded"] += 1
        seen["ran"] += ran
        if push.event == "EXPINFO":
            assert ran == 1, where
        elif not ran:
            # The lifecycle's no-op: the rig was where the message leads already.
            status = answer[-1]["status"]
            expected = {"EXPSTART": [20], "EXPEND": [0, 30], "EXPINTERRUPT": [0, 30], "EXPCLEANUP": [0]}
            assert status in expected.get(push.event, []), f"{where}: {answer}"
        if push.delay and rig in outcome.starts and ran:
            self.check_start(push, rig, outcome, seen)

    def check_start(self, push: Push, rig: str, outcome: PushCompleted, seen: Counter[str]) -> None:
        """Compare when the rig says that it began with when it did."""
        fake = self.rigs[rig]
        (entered,) = [at for at, (_, args) in zip(fake.entered, fake.calls, strict=True) if args[-1] == push.tag]
        start = outcome.starts[rig]
        told = start.time - EPOCH / 1e9 - self.anchor(push.coordinator)
        assert abs(told - entered) <= start.bound + 1e-3, f"seed {self.seed}: {rig} {told} {entered} {start}"
        assert outcome.at is not None
        assert entered >= push.pushed_at + (push.delay or 0) - start.bound - 2e-3, f"seed {self.seed}: {rig} too early"
        seen["scheduled"] += 1

    @staticmethod
    def anchor(coordinator: Coordinator) -> float:
        """Return by how much a coordinator's wall clock is ahead of the network's."""
        return (coordinator.fanout._stamps.stamp(0.0) - EPOCH) / 1e9

    def check_notices(self, seen: Counter[str]) -> None:
        """Check that the watcher was told everything, once and in order."""
        told: dict[tuple[str, str], list[int]] = {process: [] for process in self.notified}
        for event in self.watcher.events:
            if isinstance(event, Notice) and event.topic == "frames":
                boot, number = event.body
                told[event.rig, boot].append(number)
                seen["notices"] += 1
        for (rig, boot), heard in self.notified.items():
            is_running = self.rigs[rig].responder._boot == boot
            # What a process could not tell before it was killed is gone with it.
            expected = heard if is_running else heard[: len(told[rig, boot])]
            assert told[rig, boot] == expected, f"seed {self.seed}: {rig} told {told[rig, boot]}, not {heard}"


@pytest.mark.parametrize("seed", [1])
def test_an_hour_of_a_lab_where_everything_goes_wrong(seed: int) -> None:
    lab = Lab(seed)
    while lab.network.now < HOUR:
        lab.session(HOUR)
    lab.network.run(HEALED)
    seen = lab.check()
    # All of it has happened, or the invariants would hold of little.
    kinds = ["RigLost", "RigRestarted", "RigRefused", "BusyError", "Interrupted", "succeeded", "scheduled", "notices"]
    assert min(seen[kind] for kind in kinds) > 0, seen
