"""Bad networks in the kernel: rigs and coordinators on hosts of their own, as far as the network can tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from chaos.machine import OTHER_TASK_HOST, RIG_HOST, Cable, NotToBeHad, ToolFailed, cable
from chaos.stage import Stage, all_succeeded
from chaos.verdict import as_happened, by_the_table

PORT = 11_001
LOSSES = {"whole": 0, "10 %": 10, "20 %": 20, "30 %": 30, "50 %": 50}
UNSAFE = "50 %"
"""Where a push may fail, since the link is taken for lost at times."""


@pytest.fixture
def wire() -> Iterator[Cable]:
    stack = contextlib.ExitStack()
    try:
        made = stack.enter_context(cable())
    except NotToBeHad as reason:
        pytest.skip(f"no network namespaces with packet loss here: {reason}")
    with stack:
        yield made


def uris_of(names: list[str]) -> dict[str, str]:
    return {name: f"udp://{RIG_HOST}:{PORT + number}" for number, name in enumerate(names)}


def test_loss_and_duplication(stage: Stage, wire: Cable) -> None:
    """All at the same time, each rig at a port of its own."""
    twice = "twice"
    uris = uris_of([*LOSSES, twice])
    ports = {name: PORT + number for number, name in enumerate(uris)}
    stage.rigs(uris, under=wire.rigs.enter).wait()
    wire.lose({ports[name]: percent for name, percent in LOSSES.items() if percent})
    try:
        wire.duplicate({ports[twice]: 50})
    except ToolFailed as reason:
        print(f"no duplication by the kernel: {reason}")
    coordinators = stage.coordinators({name: {name: uri} for name, uri in uris.items()}, under=wire.task.enter).wait()
    scripts = {
        name: coordinators.begin(name, [*stage.session(), *stage.infos(6 if name == UNSAFE else 15), *stage.session()])
        for name in uris
    }
    pushes = {name: stage.settled(script) for name, script in scripts.items()}
    record = stage.check()
    for name in uris.keys() - {UNSAFE}:
        all_succeeded(pushes[name])
        assert as_happened(record, pushes[name], name) == by_the_table(pushes[name], name)
    assert any(push.succeeded for push in pushes[UNSAFE])
    assert wire.counted() > 20


def test_no_way_back_then_no_way_there(stage: Stage, wire: Cable) -> None:
    """Without a way back the rig acts, and nobody hears of it before the network is whole again."""
    uris = uris_of(["cameras"])
    stage.rigs(uris, under=wire.rigs.enter).wait()
    coordinators = stage.coordinators({"task": uris}, under=wire.task.enter).wait()
    reference = stage.reference()
    all_succeeded(coordinators.run("task", [stage.step("EXPINIT", reference)]))
    for there in (False, True):
        start, infos = stage.step("EXPSTART", reference, hold=0.3), stage.infos(1, timeout=1.0)
        if there:
            wire.lose_one_way({PORT: 100}, there)
        coordinators.begin("task", [start, *infos])
        if not there:
            stage.began(start, "cameras")
            wire.lose_one_way({PORT: 100}, there)
        (info,) = stage.settled(infos)
        assert not info.succeeded
        wire.lose({})
        stage.wait_for("link", "task", "cameras", "alive", after=info.ended or 0.0)
        all_succeeded(coordinators.run("task", stage.infos(1)))
    stage.check()
    all_succeeded(coordinators.run("task", [stage.step("EXPEND"), stage.step("EXPCLEANUP"), *stage.session()]))
    stage.check()


def test_cable_that_is_pulled_and_plugged(stage: Stage, wire: Cable) -> None:
    """The task's own system refuses to send; that is no fault of any program."""
    uris = uris_of(["cameras", "ephys"])
    stage.rigs(uris, under=wire.rigs.enter).wait()
    coordinators = stage.coordinators({"task": uris}, under=wire.task.enter).wait()
    reference = stage.reference()
    start, infos = stage.step("EXPSTART", reference, hold=0.3), stage.infos(8, timeout=2.0)
    coordinators.begin("task", [stage.step("EXPINIT", reference), start, *infos])
    stage.began(start, "cameras")
    wire.pull()
    failed = stage.wait_for("link", "task", "ephys", "lost")
    wire.plug()
    stage.wait_for("link", "task", "ephys", "alive", after=failed.now)
    stage.wait_for("link", "task", "cameras", "alive", after=failed.now)
    stage.settled(infos)
    script = [stage.step("EXPINTERRUPT"), stage.step("EXPCLEANUP"), *stage.session()]
    all_succeeded(coordinators.run("task", script))
    stage.check()


def test_task_whose_computer_gets_another_address(stage: Stage, wire: Cable) -> None:
    """As when its lease of the address is not renewed, or it goes to another network; it is in charge all the same."""
    uris = uris_of(["cameras", "ephys"])
    stage.rigs(uris, under=wire.rigs.enter).wait()
    coordinators = stage.coordinators({"task": uris}, under=wire.task.enter).wait()
    all_succeeded(coordinators.run("task", [stage.step("EXPINIT", stage.reference()), stage.step("EXPSTART")]))
    wire.readdress(OTHER_TASK_HOST)
    lost = stage.wait_for("link", "task", "cameras", "lost")
    for rig in uris:
        stage.wait_for("link", "task", rig, "alive", after=lost.now)
    all_succeeded(coordinators.run("task", [stage.step("EXPEND"), stage.step("EXPCLEANUP"), *stage.session()]))
    stage.check()


def test_network_that_is_there_only_after_the_task(stage: Stage, wire: Cable) -> None:
    """The task's own system knows no way to the rigs yet, and says so when they are first addressed."""
    uris = uris_of(["cameras", "ephys"])
    stage.rigs(uris, under=wire.rigs.enter).wait()
    wire.pull()
    coordinators = stage.coordinators({"task": uris}, under=wire.task.enter)
    lost = stage.wait_for("link", "task", "cameras", "lost")
    wire.plug()
    for rig in uris:
        stage.wait_for("link", "task", rig, "alive", after=lost.now)
    all_succeeded(coordinators.run("task", stage.session()))
    stage.check()


def test_rig_killed_on_a_lossy_network(stage: Stage, wire: Cable) -> None:
    uris = uris_of(["cameras"])
    victim = stage.rigs(uris, under=wire.rigs.enter).wait()
    successor = stage.rigs(uris, under=wire.rigs.enter, standby=True)
    stage.wait_for("ready", pid=successor.pid)
    wire.lose({PORT: 20})
    coordinators = stage.coordinators({"task": uris}, under=wire.task.enter).wait()
    reference = stage.reference()
    start = stage.step("EXPSTART", reference, hold=10.0)
    coordinators.begin("task", [stage.step("EXPINIT", reference), start])
    stage.began(start, "cameras")
    victim.kill()
    successor.tell("start")
    (push,) = stage.settled([start])
    assert not push.answers
    script = [stage.step("EXPINTERRUPT"), stage.step("EXPCLEANUP"), *stage.session()]
    all_succeeded(coordinators.run("task", script))
    stage.check()


def test_delay_reordering_and_duplication_by_netem(stage: Stage, wire: Cable) -> None:
    try:
        wire.delay("delay", "100ms", "50ms", "reorder", "25%", "duplicate", "20%", "loss", "10%")
    except ToolFailed as reason:
        pytest.skip(f"the kernel neither delays nor reorders here: {reason}")
    uris = uris_of(["cameras", "ephys"])
    stage.rigs(uris, under=wire.rigs.enter).wait()
    coordinators = stage.coordinators({"task": uris}, under=wire.task.enter).wait()
    all_succeeded(coordinators.run("task", [*stage.session(), *stage.infos(10), *stage.session()]))
    stage.check()
