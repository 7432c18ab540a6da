"""System clocks that are minutes apart, and stepped in the middle of an experiment."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from chaos.machine import FalseClock, NotToBeHad
from chaos.stage import Stage, all_succeeded
from chaos.verdict import Record


def false_clock(folder: Path, shift: float) -> FalseClock:
    folder.mkdir(exist_ok=True)
    try:
        return FalseClock(folder / "clock", shift)
    except NotToBeHad as reason:
        pytest.skip(f"no false clocks here: {reason}")


def shifts(record: Record, pid: int) -> list[float]:
    """Return by how much a process's clock was ahead of its monotonic one, each time that it wrote something down."""
    return [line.wall - line.now for line in record.lines if line.pid == pid]


def assert_in_order(record: Record, coordinator: str, rig: str) -> list[float]:
    """Fail where a clock that made stamps went back; return the offsets in seconds (RFC 5905 section 8)."""
    stamps = record.stamps(coordinator, rig)
    assert len(stamps) > 3
    for sent, received, answered, returned in stamps:
        assert sent <= returned
        assert received <= answered
    for place in range(4):
        own = [four[place] for four in stamps]
        # Those of the rig and of the return may overtake each other on the way.
        assert place or all(before < after for before, after in itertools.pairwise(own))
    return [((t1 - t0) + (t2 - t3)) / 2 * 1e-9 for t0, t1, t2, t3 in stamps]


def test_clocks_minutes_apart(stage: Stage, tmp_path: Path) -> None:
    ahead, behind = (false_clock(tmp_path / name, shift) for name, shift in (("ahead", 90.0), ("behind", -300.0)))
    rigs = [stage.rigs(["right"]), stage.rigs(["ahead"], env=ahead.env), stage.rigs(["behind"], env=behind.env)]
    uris = {name: uri for rig in rigs for name, uri in rig.wait().uris.items()}
    late = false_clock(tmp_path / "late", -1000.0)
    true_time = stage.coordinators({"true": uris}).wait()
    all_succeeded(true_time.run("true", [*stage.session(), *stage.infos(5), *stage.session()]))
    false_time = stage.coordinators({"false": uris}, env=late.env).wait()
    all_succeeded(false_time.run("false", [*stage.session(), *stage.infos(5), *stage.session()]))
    record = stage.check()
    for coordinator, own in (("true", 0.0), ("false", -1000.0)):
        for rig, shift in (("right", 0.0), ("ahead", 90.0), ("behind", -300.0)):
            offsets = assert_in_order(record, coordinator, rig)
            assert sorted(offsets)[len(offsets) // 2] == pytest.approx(shift - own, abs=1.0)


@pytest.mark.parametrize("network", ["whole", "lossy"])
def test_clocks_that_are_stepped_in_the_middle_of_a_session(stage: Stage, tmp_path: Path, network: str) -> None:
    """First the rig's, forwards and back again by minutes, then the coordinator's, while messages are under way."""
    clocks = {name: false_clock(tmp_path / name, 0.0) for name in ("rig", "task")}
    rigs = stage.rigs(["cameras"], env=clocks["rig"].env).wait()
    faults = {"loss": 0.2, "duplication": 0.2, "reordering": 0.2} if network == "lossy" else {}
    relay = stage.relays(rigs.targets, **faults)["cameras"]
    coordinators = stage.coordinators(
        {"task": {"cameras": f"udp://127.0.0.1:{relay.address[1]}"}}, env=clocks["task"].env
    ).wait()
    steps = [step for _ in range(2) for step in [*stage.session(hold=0.15), *stage.infos(1, hold=0.15)]]
    coordinators.begin("task", steps)
    changes = [("rig", 90.0), ("rig", -300.0), ("task", 600.0), ("task", -600.0), ("rig", 0.0), ("task", 0.0)]
    for step, (clock, shift) in zip(steps[1::2], changes, strict=True):
        stage.began(step, "cameras")
        clocks[clock].step(shift)
    all_succeeded(stage.settled(steps))
    all_succeeded(coordinators.run("task", stage.session()))
    record = stage.check()
    for pid, span in ((rigs.pid, 390.0), (coordinators.pid, 1200.0)):
        seen = shifts(record, pid)
        assert max(seen) - min(seen) == pytest.approx(span, abs=5.0)  # the clocks were stepped indeed
    offsets = assert_in_order(record, "task", "cameras")
    assert max(offsets) - min(offsets) < 10.0  # and no stamp has followed
