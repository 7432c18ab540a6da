"""Bad networks through the relay: loss, duplication, reordering, delay and partitions."""

from __future__ import annotations

import time
from typing import Any

import pytest
from processes import PROBE_WARNING

from chaos.stage import Stage, Step, all_succeeded
from chaos.verdict import as_happened, by_the_table

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

RIGS = ("cameras", "ephys")

FAULTS: dict[str, dict[str, Any]] = {
    "whole": {},
    "loss 10": {"loss": 0.1},
    "loss 20": {"loss": 0.2},
    "loss 30": {"loss": 0.3},
    "loss 50": {"loss": 0.5},
    "duplication": {"duplication": 0.5},
    "reordering": {"reordering": 0.5},
    "delay": {"delay": (0.2, 0.2)},
    "jitter": {"delay": (0.0, 0.2)},
    "all": {"loss": 0.2, "duplication": 0.2, "reordering": 0.3, "delay": (0.0, 0.2)},
}
UNSAFE = "loss 50"
"""Where a push may fail, since the link is taken for lost at times: all else has to succeed."""


def names(scenario: str) -> list[str]:
    """Return the names that the rigs of one scenario have among all that run at the same time."""
    return [f"{rig} {scenario}" for rig in RIGS]


def rough(stage: Stage, count: int) -> list[Step]:
    """Return lifecycle messages in an order that no task would have, of two experiments."""
    references = [stage.reference(), stage.reference()]
    messages = ("EXPINIT", "EXPSTART", "EXPEND", "EXPINTERRUPT", "EXPCLEANUP")
    return [stage.step(stage.random.choice(messages), stage.random.choice(references)) for _ in range(count)]


def test_loss_duplication_reordering_and_delay(stage: Stage) -> None:
    """All of them at the same time, each with two rigs and a coordinator of its own: the time goes by in waiting."""
    processes = [stage.rigs([names(scenario)[place] for scenario in FAULTS]) for place in range(len(RIGS))]
    targets = {name: target for process in processes for name, target in process.wait().targets.items()}
    relays = {
        scenario: stage.relays({name: targets[name] for name in names(scenario)}, **faults)
        for scenario, faults in FAULTS.items()
    }
    coordinators = stage.coordinators(
        {
            scenario: {name: f"udp://127.0.0.1:{relay.address[1]}" for name, relay in of_scenario.items()}
            for scenario, of_scenario in relays.items()
        }
    ).wait()
    scripts: dict[str, list[Step]] = {}
    infos: list[Step] = []
    for scenario in FAULTS:
        few = scenario in (UNSAFE, "all", "delay", "jitter")
        script = [*stage.session(), *rough(stage, 6 if few else 25)]
        scripts[scenario] = coordinators.begin(scenario, script)
        infos += coordinators.begin(scenario, stage.infos(6 if few else 40))  # between the others, from another thread
    pushes = {scenario: stage.settled(script) for scenario, script in scripts.items()}
    stage.settled(infos)
    record = stage.check()
    errors = [
        (push.token, *error)
        for push in record.pushes.values()
        if push.message == "EXPINFO" and push.coordinator != UNSAFE
        for error in push.failed.values()
    ]
    assert [error for error in errors if error[1] != "Interrupted"] == []  # by the other thread's EXPINTERRUPT
    for scenario in FAULTS.keys() - {UNSAFE}:
        for rig in names(scenario):
            assert as_happened(record, pushes[scenario], rig) == by_the_table(pushes[scenario], rig), scenario
    assert any(push.succeeded for push in pushes[UNSAFE])
    for scenario, of_scenario in relays.items():
        lossy = FAULTS[scenario].get("loss", 0.0) > 0
        assert all((relay.dropped > 0) is lossy for relay in of_scenario.values()), scenario


PARTITIONS = {
    "1 s": (1.0, "both"),
    "1 s back": (1.0, "back"),
    "5 s": (5.0, "both"),
    "5 s there": (5.0, "there"),
    "12 s": (12.0, "both"),
    "12 s back": (12.0, "back"),
    "30 s": (30.0, "both"),
}
"""How long, and which way nothing is carried. Without a way back all is done and nothing is heard of it."""


def test_partitions_in_the_middle_of_a_session(stage: Stage) -> None:
    """The network of one rig of two is cut while it handles EXPSTART, of each pair for another time."""
    processes = [stage.rigs([names(scenario)[place] for scenario in PARTITIONS]) for place in range(len(RIGS))]
    uris = {name: uri for process in processes for name, uri in process.wait().uris.items()}
    targets = {name: target for process in processes for name, target in process.targets.items()}
    cut = {scenario: names(scenario)[0] for scenario in PARTITIONS}
    relays = stage.relays({name: targets[name] for name in cut.values()})
    uris.update({name: f"udp://127.0.0.1:{relay.address[1]}" for name, relay in relays.items()})
    coordinators = stage.coordinators(
        {scenario: {name: uris[name] for name in names(scenario)} for scenario in PARTITIONS}
    ).wait()
    reference = {scenario: stage.reference() for scenario in PARTITIONS}
    starts = {}
    for scenario, (seconds, _) in PARTITIONS.items():
        init = stage.step("EXPINIT", reference[scenario])
        starts[scenario] = stage.step("EXPSTART", reference[scenario], hold=0.5)
        after = [stage.step("EXPINFO", pause=0.2), *stage.infos(int(seconds) + 3, pause=0.2, timeout=3.0)]
        coordinators.begin(scenario, [init, starts[scenario], *after, stage.step("EXPEND")])
    healed: dict[str, float] = {}
    waiting = dict(PARTITIONS)
    for scenario, (_, ways) in PARTITIONS.items():
        stage.began(starts[scenario], cut[scenario])
        relay = relays[cut[scenario]]
        relay.loss = 0.0 if ways == "back" else 1.0
        relay.loss_back = 0.0 if ways == "there" else 1.0
    begun = time.monotonic()
    while waiting:
        scenario = min(waiting, key=lambda scenario: waiting[scenario][0])
        seconds, _ = waiting.pop(scenario)
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        relays[cut[scenario]].loss = 0.0
        relays[cut[scenario]].loss_back = None
        healed[scenario] = time.monotonic()
    record = stage.check()
    for scenario in PARTITIONS:
        other = names(scenario)[1]
        own = [push for push in record.pushes.values() if push.coordinator == scenario]
        assert all(other in push.answers for push in own), f"{scenario}: the rig with a good network was held up"
        states = [line.details[2] for line in record.lines if line.what == "link" and line.details[1] == cut[scenario]]
        assert ("lost" in states) is (PARTITIONS[scenario][0] > 6.0) or PARTITIONS[scenario][0] == 5.0, states
    # Whatever it left behind, the next experiment goes through whole.
    after = [
        stage.settled(
            coordinators.begin(scenario, [stage.step("EXPINTERRUPT"), stage.step("EXPCLEANUP"), *stage.session()])
        )
        for scenario in PARTITIONS
    ]
    all_succeeded(push for pushes in after for push in pushes)
    stage.check()


def test_iblutil_rigs_never_seem_to_act_when_they_did_not(stage: Stage) -> None:
    """They may go deaf for good, as iblutil's do; what they did not do must not be said to have been done."""
    rigs = stage.iblutil_rigs(["whole", "lossy", "slow", "cut"]).wait()
    relays = {
        "whole": stage.relays({"whole": rigs.targets["whole"]})["whole"],
        "lossy": stage.relays({"lossy": rigs.targets["lossy"]}, loss=0.1)["lossy"],
        "slow": stage.relays({"slow": rigs.targets["slow"]}, delay=(0.05, 0.2), reordering=0.3)["slow"],
        "cut": stage.relays({"cut": rigs.targets["cut"]})["cut"],
    }
    coordinators = stage.coordinators(
        {name: {name: f"udp://127.0.0.1:{relay.address[1]}"} for name, relay in relays.items()}
    ).wait()
    steps = []
    for name in relays:
        script = [step for _ in range(2) for step in stage.session(timeout=1.5, pause=0.2)]
        steps += coordinators.begin(name, [*stage.infos(2, timeout=1.0), *script])
    stage.wait_for("began", "cut", "EXPSTART")
    relays["cut"].loss = 1.0
    time.sleep(3.0)
    relays["cut"].loss = 0.0
    stage.settled(steps)
    record = stage.check()
    all_succeeded(push for push in record.pushes.values() if push.coordinator == "whole")
