"""Rigs and coordinators that are killed in the middle of each message, and started again.

A rig that comes back is a new process which knows nothing of what the old one was told. The message that was under
way ends as an error, and nobody runs it a second time. What a killed coordinator has begun goes on; a new one
interrupts, takes the experiment over, and clears up.
"""

from __future__ import annotations

import signal
import sys

import pytest
from processes import PROBE_WARNING

from chaos.stage import CoordinatorsActor, RigsActor, Stage, Step, all_succeeded
from chaos.verdict import Push
from rigsync import Auxiliaries

pytestmark = pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")

LEADING_TO = {
    "EXPINFO": [],
    "EXPINIT": [],
    "EXPSTART": ["EXPINIT"],
    "EXPEND": ["EXPINIT", "EXPSTART"],
    "EXPINTERRUPT": ["EXPINIT", "EXPSTART"],
    "EXPCLEANUP": ["EXPINIT"],
}
"""The messages that bring a rig to where the handler of another one runs."""
NETWORKS = {"direct": None, "relay": {"loss": 0.1, "duplication": 0.2, "reordering": 0.2, "delay": (0.0, 0.01)}}
"""Only on a network without a relay does a coordinator hear that the port is closed."""
RESTARTED = {"RigRestarted", "RigRefused", "RigLost"}
"""What may become of a message to a rig that was killed: by what the coordinator notices first."""


def steps_to(stage: Stage, message: str, reference: str, hold: float) -> tuple[list[Step], Step]:
    """Return the messages before, and the message in whose middle something is killed."""
    leading = [stage.step(before, reference) for before in LEADING_TO[message]]
    return leading, stage.step(message, reference, hold=hold)


def uris_before(stage: Stage, rigs: list[RigsActor], network: str) -> dict[str, str]:
    """Return where the rigs are to be reached, behind a bad network or not."""
    faults = NETWORKS[network]
    if faults is None:
        return {name: uri for actor in rigs for name, uri in actor.uris.items()}
    targets = {name: target for actor in rigs for name, target in actor.targets.items()}
    return {name: f"udp://127.0.0.1:{relay.address[1]}" for name, relay in stage.relays(targets, **faults).items()}


# ------------------------------------------------------------------------------------------------------------ rigs


@pytest.mark.parametrize("network", NETWORKS)
def test_rig_killed_in_the_middle_of_each_message(stage: Stage, network: str) -> None:
    """Its successor listens some milliseconds later, while the coordinator still asks for the answer."""
    victims = {message: stage.rigs([message]) for message in LEADING_TO}
    uris = uris_before(stage, [victim.wait() for victim in victims.values()], network)
    successors = {message: stage.rigs(victims[message].uris, standby=True) for message in LEADING_TO}
    coordinators = stage.coordinators({message: {message: uris[message]} for message in LEADING_TO}).wait()
    for successor in successors.values():
        stage.wait_for("ready", pid=successor.pid)
    last: dict[str, Step] = {}
    for message in LEADING_TO:
        leading, last[message] = steps_to(stage, message, stage.reference(), hold=10.0)
        coordinators.begin(message, [*leading, last[message]])
    for message, step in last.items():
        stage.began(step, message)
        victims[message].kill()
        successors[message].tell("start")
    outcomes = {message: stage.settled([step])[0] for message, step in last.items()}
    all_succeeded(push for message in LEADING_TO for push in again(stage, coordinators, message))
    stage.check()
    assert [message for message, push in outcomes.items() if push.answers] == []
    assert {push.failed[message][0] for message, push in outcomes.items()} <= RESTARTED


def again(stage: Stage, coordinators: CoordinatorsActor, name: str) -> list[Push]:
    """Have a coordinator go through a whole experiment, whatever there was before."""
    clearing = [stage.step("EXPINTERRUPT"), stage.step("EXPCLEANUP")]
    return coordinators.run(name, [*clearing, *stage.session()])


def test_rig_killed_and_back_only_after_it_was_given_up(stage: Stage) -> None:
    """As when somebody has to walk there: the message ends before the successor is there, and is not sent to it."""
    victim = stage.rigs(["cameras"]).wait()
    coordinators = stage.coordinators({"task": victim.uris}).wait()
    leading, start = steps_to(stage, "EXPSTART", stage.reference(), hold=10.0)
    coordinators.begin("task", [*leading, start])
    stage.began(start, "cameras")
    victim.kill()
    (push,) = stage.settled([start])
    assert push.failed["cameras"][0] in RESTARTED
    successor = stage.rigs(victim.uris).wait()
    stage.wait_for("link", "task", "cameras", "alive", after=push.ended or 0.0)
    all_succeeded(again(stage, coordinators, "task"))
    record = stage.check()
    assert successor.pid not in {run.pid for run in record.runs["cameras", start["token"]]}


def test_rig_killed_between_receipt_and_handling(stage: Stage) -> None:
    """Eight messages are in handlers, the ninth is confirmed and waits for its turn; then the rig dies."""
    victim = stage.rigs(["cameras"]).wait()
    successor = stage.rigs(victim.uris, standby=True)
    stage.wait_for("ready", pid=successor.pid)
    busy = stage.coordinators({f"busy {number}": victim.uris for number in range(8)}).wait()
    held = [busy.begin(name, [stage.step("EXPINFO", hold=10.0)])[0] for name in busy.rigs]
    for step in held:
        stage.began(step, "cameras")
    with Auxiliaries(victim.uris) as auxiliaries:
        waiting = stage.step("EXPINFO")
        asked = auxiliaries.push("EXPINFO", *waiting["args"], timeout=waiting["timeout"])
        peer = auxiliaries.services["cameras"].peer
        stage.until(
            lambda: peer.requests.errands.current and peer.requests.errands.current.received, "the rig's confirmation"
        )
        assert not stage.record().runs["cameras", waiting["token"]]
        victim.kill()
        successor.tell("start")
        outcome = stage.until(lambda: auxiliaries.response(asked), "the outcome")
        assert type(outcome.failed["cameras"]).__name__ in RESTARTED
    for push in stage.settled(held):
        assert push.failed["cameras"][0] in RESTARTED
    record = stage.check()
    assert not record.runs["cameras", waiting["token"]]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_rig_killed_with_messages_in_its_socket(stage: Stage) -> None:
    """A frozen rig takes in nothing; what the operating system took in for it dies with it."""
    victim = stage.rigs(["cameras"]).wait()
    successor = stage.rigs(victim.uris, standby=True)
    stage.wait_for("ready", pid=successor.pid)
    coordinators = stage.coordinators({"task": victim.uris}).wait()
    all_succeeded(coordinators.run("task", [stage.step("EXPINIT", reference := stage.reference())]))
    victim.signal(signal.SIGSTOP)
    start = stage.step("EXPSTART", reference)
    coordinators.begin("task", [start])
    stage.wait_for("push", "task", "EXPSTART", start["token"])
    victim.kill()
    successor.tell("start")
    (push,) = stage.settled([start])
    assert not push.answers  # what a rig was told that knows nothing of the experiment it must not start
    all_succeeded(again(stage, coordinators, "task"))
    stage.check()


def test_rig_killed_again_and_again(stage: Stage) -> None:
    """A rig that dies of every other message, while the other rig goes on."""
    steady = stage.rigs(["ephys"]).wait()
    present = stage.rigs(["cameras"]).wait()
    coordinators = stage.coordinators({"task": {**present.uris, **steady.uris}}).wait()
    for _ in range(3):
        successor = stage.rigs(present.uris, standby=True)
        stage.wait_for("ready", pid=successor.pid)
        steps = coordinators.begin("task", [*stage.infos(2), *stage.session(hold=0.05), *stage.infos(6)])
        stage.began(stage.random.choice(steps[:7]), "ephys")
        present.kill()
        successor.tell("start")
        present = successor.wait()
        assert all("ephys" in push.answers for push in stage.settled(steps))
        all_succeeded(again(stage, coordinators, "task"))
    stage.check()


def test_iblutil_rig_killed_in_the_middle_of_a_session(stage: Stage) -> None:
    victim = stage.iblutil_rigs(["cameras"]).wait()
    coordinators = stage.coordinators({"task": victim.uris}).wait()
    steps = coordinators.begin("task", stage.session(timeout=2.0, pause=0.1))
    stage.began(steps[1], "cameras")
    victim.kill()
    failed = stage.settled(steps)
    assert any(not push.succeeded for push in failed)
    stage.iblutil_rigs(victim.uris).wait()
    # An iblutil rig is probed each 15 s only; a message finds out sooner.
    stage.until(lambda: coordinators.run("task", stage.infos(1, timeout=1.0))[0].succeeded, "an answer")
    all_succeeded(coordinators.run("task", stage.session()))
    stage.check()


# ---------------------------------------------------------------------------------------------------- coordinators


@pytest.mark.parametrize("network", NETWORKS)
def test_coordinator_killed_in_the_middle_of_each_message(stage: Stage, network: str) -> None:
    """What it began runs once, and its successor, which knows the reference, clears up and goes on."""
    rigs = stage.rigs(list(LEADING_TO)).wait()
    uris = uris_before(stage, [rigs], network)
    victims = {message: stage.coordinators({f"old {message}": {message: uris[message]}}) for message in LEADING_TO}
    references = {message: stage.reference() for message in LEADING_TO}
    for message, victim in victims.items():
        leading, last = steps_to(stage, message, references[message], hold=1.0)
        victim.wait().begin(f"old {message}", [*leading, last])
        stage.began(last, message)
        victim.kill()
    successor = stage.coordinators({f"new {message}": {message: uris[message]} for message in LEADING_TO}).wait()
    scripts = {}
    for message, reference in references.items():
        clearing = [stage.step("EXPINTERRUPT"), takeover(stage, reference), stage.step("EXPCLEANUP")]
        scripts[message] = successor.begin(f"new {message}", [*clearing, *stage.session()])
    for script in scripts.values():
        all_succeeded(stage.settled(script))
    record = stage.check()
    began = [runs for (_, token), runs in record.runs.items() if record.pushes[token].coordinator.startswith("old")]
    assert {len(runs) for runs in began} == {1}


def takeover(stage: Stage, reference: str) -> Step:
    """Return the message by which a new coordinator makes the experiment of a dead one its own."""
    return stage.step("EXPINIT", reference, takeover=True)


def test_both_killed_in_the_middle_of_a_start(stage: Stage) -> None:
    """A power cut: everything is new, and nobody remembers anything."""
    victim = stage.rigs(["cameras"]).wait()
    coordinators = stage.coordinators({"task": victim.uris}).wait()
    leading, start = steps_to(stage, "EXPSTART", stage.reference(), hold=10.0)
    coordinators.begin("task", [*leading, start])
    stage.began(start, "cameras")
    coordinators.kill()
    victim.kill()
    stage.rigs(victim.uris).wait()
    all_succeeded(stage.coordinators({"task": victim.uris}).wait().run("task", stage.session()))
    stage.check()
