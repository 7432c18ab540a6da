"""The LSL bridge with liblsl itself: a recorder in another process, and streams that come, go and are no markers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
import pytest
from live_helpers import Gate, Lab, in_thread, run
from processes import LONG, until

from bridges.lsl_support import Recorder, Stream, local_clock, recorder, stream_name
from rigsync import Coordinator
from rigsync.bridges.lsl import LslBridge, LslMarker, bridge, child
from rigsync.bridges.lsl.markers import MOST_TOLD, Markers
from rigsync.bridges.lsl.program import LONGEST
from rigsync.core.enums import ExpMessage
from rigsync.core.events import Event, LinkAlive, LinkState, PushBegun, PushCompleted, RigSettled, Start
from rigsync.core.events import put_stamp as stamped
from rigsync.errors import ConfigError, NotRunning, PushError, RigTimeout

REFERENCE = "2026-11-20_1_mouse"


@pytest.fixture
def lab(serve: Callable[..., Any]) -> Lab:
    return Lab(serve)


@pytest.fixture
def bridged(connect: Callable[..., Any], stack: contextlib.ExitStack) -> Callable[..., LslBridge]:
    """Connect to rigs, and enter a bridge with a stream of its own."""

    def start(*rigs: Any, **options: Any) -> LslBridge:
        return stack.enter_context(LslBridge(connect(*rigs), **{"name": stream_name(), **options}))

    return start


@pytest.fixture
def recorded(stack: contextlib.ExitStack, tmp_path: Path) -> Callable[[LslBridge], Recorder]:
    """Record the stream of a bridge; its markers come from now on."""

    def start(lsl: LslBridge) -> Recorder:
        found = stack.enter_context(recorder(lsl.stream, tmp_path))
        assert found.description

        def come() -> bool:
            lsl.lab.request("EXPINFO")
            return bool(found.markers())

        until(come, "a marker")
        return found

    return start


def settled(found: Recorder, verb: str) -> dict[str, tuple[Any, float]]:
    told = found.markers("RigSettled")
    return {
        marker["rig"]: (marker["fields"]["outcome"], at) for marker, at in told if marker["fields"]["event"] == verb
    }


# ---------------------------------------------------------------------------------------------------------- out


def test_lines_of_liblsls_program_are_joined_from_whatever_parts_they_come_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = [["begun"], ["marker", "x" * 50, 1.0, 2.0], ["lost", "is lost"]]
    text = "\n".join(map(json.dumps, lines)) + '\n["cut'  # as of a program that is killed
    (tmp_path / "program.py").write_text(f"print({text!r}, end='')\n", encoding="utf-8")
    monkeypatch.setattr(child, "PROGRAM", tmp_path / "program.py")
    for chunk in (1, 3, len('["begun"]\n'), 1000):
        monkeypatch.setattr(child, "CHUNK", chunk)
        made = child.Child({})  # type: ignore[typeddict-item]
        told: list[Any] = []
        while more := made.read():
            told += more
        made.close()
        assert told == lines
        assert made.read() == []
        made.wait()


def test_a_recorder_in_another_process_reads_markers_in_order_stamped_when_it_happened(
    lab: Lab, bridged: Callable[..., LslBridge], recorded: Callable[[LslBridge], Recorder]
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no disk")

    lsl = bridged(lab.rig("cameras"), lab.rig("ephys", {"EXPSTART": fail}))
    found = recorded(lsl)
    marks = [local_clock()]
    lsl.lab.request("EXPINIT", {"exp_ref": REFERENCE})
    marks.append(local_clock())
    with pytest.raises(PushError) as raised:
        lsl.lab.request("EXPSTART", REFERENCE)
    marks.append(local_clock())
    markers = until(
        lambda: (
            (come := found.markers("PushBegun", "RigSettled", "RigStarted"))
            and [marker["fields"]["event"] for marker, _ in come].count("EXPSTART") == 4
            and come
        ),
        "the markers of both",
    )
    told = [(m["fields"]["event"], m["type"], m["rig"]) for m, _ in markers if m["fields"]["event"] != "EXPINFO"]
    assert [told[0], *sorted(told[1:3]), *sorted(told[3:5])] == [
        ("EXPINIT", "PushBegun", None),
        ("EXPINIT", "RigSettled", "cameras"),
        ("EXPINIT", "RigSettled", "ephys"),
        ("EXPINIT", "RigStarted", "cameras"),
        ("EXPINIT", "RigStarted", "ephys"),
    ]
    assert told[5:6] == [("EXPSTART", "PushBegun", None)]
    for marker, at in markers:
        if marker["fields"]["event"] in ("EXPINIT", "EXPSTART"):
            begun = ["EXPINIT", "EXPSTART"].index(marker["fields"]["event"])
            bound = marker["fields"].get("bound", 0.0)
            assert marks[begun] - bound <= at <= marks[begun + 1] + bound, marker
    outcomes = settled(found, "EXPSTART")
    assert outcomes["ephys"][0] == {"error": "RemoteError", "problem": raised.value.failed["ephys"].problem}
    assert outcomes["cameras"][0] == raised.value.result["cameras"]
    # The description has what turns a start, by the coordinator's clock, to LSL's.
    description = found.description
    ahead, off = (float(re.findall(f"<{name}>(.*?)<", description)[0]) for name in ("lsl_minus_unix", "bound"))
    ((started, at),) = [
        each for each in markers if each[0]["type"] == "RigStarted" and each[0]["fields"]["event"] == "EXPSTART"
    ]
    assert started["time"] == raised.value.result.starts["cameras"].time
    assert abs(started["time"] + ahead - at) < 2e-6
    assert 0 < off < 0.001


def test_the_description_says_what_the_stream_is_and_outlives_the_program(
    lab: Lab, connect: Callable[..., Any], tmp_path: Path
) -> None:
    rig, ids, name = lab.rig("cameras"), set(), stream_name()
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        with LslBridge(connect(rig), name), recorder(name, folder) as found:
            told = dict(re.findall("<(\\w+)>([^<]*)</", found.description.partition("<desc>")[0]))
        ids.add(told["source_id"])
        assert (told["type"], told["channel_count"], told["channel_format"]) == ("Markers", "1", "string")
        assert float(told["nominal_srate"]) == 0.0
    assert len(ids) == 1


def test_where_liblsl_ends_its_program_the_rigs_go_on_and_recorders_find_the_stream_again(
    lab: Lab,
    bridged: Callable[..., LslBridge],
    recorded: Callable[[LslBridge], Recorder],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bridge, "AGAIN", 0.05)
    lsl = bridged(lab.rig("cameras"))
    found = recorded(lsl)
    assert lsl._child
    first = lsl._child.pid
    psutil.Process(first).kill()
    until(lambda: lsl._child and lsl._child.pid != first and lsl.counts["ended"])
    assert f"the program of LSL stream '{lsl.stream}' has ended (" in caplog.text
    before = len(found.markers())

    def come() -> bool:
        lsl.lab.request("EXPINFO")
        return len(found.markers()) > before

    until(come, "a marker of the second program")
    assert lsl.counts == {"ended": 1}


def test_where_the_system_gives_no_thread_for_a_while_another_program_begins(
    lab: Lab, bridged: Callable[..., LslBridge], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "AGAIN", 0.05)
    lsl = bridged(lab.rig("cameras"))
    assert lsl._child
    jobs, submit = list[Any](), lsl._workers.submit

    def submit_some(*job: Any) -> None:
        jobs.append(job)
        if len(jobs) in {1, 2, 4}:  # as the first program ends, as the next one begins, and as it has begun
            raise RuntimeError("can't start new thread")
        submit(*job)

    until(lambda: sum(worker.busy for worker in lsl._workers._workers) == 2, "somebody reads from the first program")
    monkeypatch.setattr(lsl._workers, "submit", submit_some)
    lsl._child.kill()
    # At least: on a busy computer one may not begin by itself either.
    until(lambda: len(jobs) >= 7, "somebody reads from the third program")
    assert lsl.counts["ended"] >= 3


def test_markers_that_a_program_has_not_taken_wait_for_the_next(lab: Lab, connect: Callable[..., Any]) -> None:
    class Program:
        def __init__(self, *errors: OSError):
            self.errors, self.taken = errors, list[tuple[str, float]]()

        def send(self, *marker: Any) -> None:
            if self.errors:
                raise self.errors[0]
            self.taken.append(marker)

        def close(self) -> None:
            pass

    lsl: Any = LslBridge(connect(lab.rig("cameras")))
    lsl._waiting, lsl._unsent = SimpleQueue(), []
    for program in (Program(BrokenPipeError("it has ended")), Program()):
        lsl._waiting.put(("a marker", float(len(lsl._unsent))))
        lsl._waiting.put(None)
        lsl._send_all(program)
    assert program.taken == [("a marker", 0.0), ("a marker", 1.0)]
    assert lsl._unsent == []


def test_a_failure_is_told_when_it_happens_though_another_rig_is_still_at_work(
    lab: Lab, bridged: Callable[..., LslBridge], recorded: Callable[[LslBridge], Recorder], gate: Gate
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no disk")

    lsl = bridged(lab.rig("cameras", {"EXPINIT": gate}), lab.rig("ephys", {"EXPINIT": fail}))
    found = recorded(lsl)
    pushing = in_thread(lsl.lab.request, "EXPINIT", {"exp_ref": REFERENCE})
    until(lambda: "ephys" in settled(found, "EXPINIT"), "the failure")
    assert not pushing.done()
    before = local_clock()
    gate.open.set()
    with pytest.raises(PushError):
        pushing.result(LONG)
    until(lambda: len(settled(found, "EXPINIT")) == 2)
    assert settled(found, "EXPINIT")["ephys"][1] < before < settled(found, "EXPINIT")["cameras"][1]


def test_what_was_told_before_the_bridge_closes_comes(
    lab: Lab, connect: Callable[..., Any], recorded: Callable[[LslBridge], Recorder]
) -> None:
    with LslBridge(connect(lab.rig("cameras")), stream_name()) as lsl:
        found = recorded(lsl)
        for number in range(1000):  # faster than they leave
            lsl._waiting.put((f'{{"type": "burst", "rig": null, "fields": {number}}}', 1.0))
    until(lambda: len(found.markers("burst")) == 1000, "all markers")
    assert [marker["fields"] for marker, _ in found.markers("burst")] == [*range(1000)]


def test_a_program_that_hangs_is_killed_when_the_bridge_closes(
    lab: Lab, connect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge, "CLOSE", 0.2)
    with LslBridge(connect(lab.rig("cameras")), stream_name()) as lsl:
        assert lsl._child
        hangs = psutil.Process(lsl._child.pid)
        hangs.suspend()
    until(lambda: not hangs.is_running(), "its end")
    assert lsl.counts == {"dropped": 1}
    assert "liblsl did not send all within 0.2 s; the markers that are left are dropped" in caplog.text


def test_on_an_event_loop(lab: Lab, tmp_path: Path) -> None:
    rig, name = lab.rig("cameras"), stream_name()

    async def main() -> None:
        async with Coordinator({"cameras": rig.uri}) as coordinator, LslBridge(coordinator, name):
            with recorder(name, tmp_path) as found:
                await asyncio.to_thread(lambda: found.description)
                while not found.markers("RigStarted"):
                    await coordinator.push("EXPINFO")
                    await asyncio.sleep(0.01)

    run(main)


@pytest.mark.parametrize("name", ["", " ", "it's", 'the "name"', "a\nb", "x" * 101, 3, None])
def test_a_name_that_is_none(lab: Lab, connect: Callable[..., Any], name: Any) -> None:
    with pytest.raises(ConfigError, match="is no name of an LSL stream: expected up to 100 characters, no quotes"):
        LslBridge(connect(lab.rig("cameras")), name)


def test_it_needs_rigs_that_are_connected(lab: Lab, connect: Callable[..., Any]) -> None:
    aux = connect(lab.rig("cameras"))
    aux.close()
    with pytest.raises(NotRunning, match="LSL bridge: hub 'auxiliaries' does not run"), LslBridge(aux):
        pass


# ------------------------------------------------------------------------------------------------------- out, pure


def told(event: Event, at: float = 5.0) -> Event:
    stamped(event, (1, 0, at, None))
    return event


def test_each_outcome_of_a_push_is_told_once_and_with_the_time_of_what_told_it() -> None:
    timeout = RigTimeout("ephys", "no answer")
    markers = Markers(lambda request_time: {"cameras": ["x"]} if request_time == 1.0 else None)
    init = ExpMessage.EXPINIT
    begun = list(markers.of(told(PushBegun(1.0, init, [], ["cameras", "ephys"], None), 1.5)))
    assert [(each.time, '"RigSettled"' in each.text) for each in begun] == [(1.5, False), (1.5, True)]
    assert len(list(markers.of(told(RigSettled("ephys", 1.0, init, timeout), 2.5)))) == 1
    assert list(markers.of(told(RigSettled("cameras", 1.0, init, ["x"])))) == []
    starts = {"cameras": Start(1.25, 0.001)}
    (start,) = markers.of(told(PushCompleted(1.0, init, {"cameras": ["x"]}, {"ephys": timeout}, starts)))
    assert (start.time, start.is_start) == (1.25, True)
    # One that the bridge has not seen begin, or that was over at once.
    late = list(markers.of(told(PushCompleted(2.0, init, {"cameras": []}, {"ephys": timeout}))))
    assert sorted('"ephys"' in each.text for each in late) == [False, True]
    assert markers._told == {}


def test_nothing_is_kept_of_the_pushes_of_another_lab() -> None:
    markers, init = Markers(lambda _: None), ExpMessage.EXPINIT
    events = PushBegun(1.0, init, [], ["ephys"], None), RigSettled("ephys", 1.0, init, ["x"])
    assert [len(list(markers.of(told(event)))) for event in events] == [1, 0]
    assert markers._told == {}
    assert len(list(markers.of(told(PushCompleted(1.0, init, {"ephys": ["x"]}, {}))))) == 1


def test_links_are_told_and_what_nobody_asked_for_is_not() -> None:
    markers = Markers(lambda _: None)
    (marker,) = markers.of(told(LinkAlive("cameras", LinkState.LOST, LinkState.ALIVE, "it answers")))
    fields = '"fields":{"before":"lost","after":"alive","reason":"it answers"}'
    assert marker.text == f'{{"type":"LinkAlive","rig":"cameras","time":5.0,{fields}}}'
    assert list(markers.of(told(LslMarker("other", "x", 1.0, 1.0)))) == []


def test_no_token_of_alyx_and_no_large_field_is_told() -> None:
    markers = Markers(lambda _: {})
    (marker,) = markers.of(told(PushBegun(1.0, ExpMessage.ALYX, ["secret"], ["cameras"], None)))
    assert '"args":"***"' in marker.text
    (marker,) = markers.of(told(RigSettled("cameras", 1.0, ExpMessage.ALYX, ["secret"])))
    assert "secret" not in marker.text
    (marker,) = markers.of(told(PushBegun(2.0, ExpMessage.EXPINIT, ["x" * MOST_TOLD], ["cameras"], None)))
    assert len(marker.text) < MOST_TOLD
    assert '"rigs":["cameras"],"at":null,"left_out":["args"]' in marker.text


# ----------------------------------------------------------------------------------------------------------- in


@pytest.fixture
def listening(
    bridged: Callable[..., LslBridge], lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> tuple[LslBridge, str, list[LslMarker]]:
    """A bridge that listens to a stream, the stream's name, and the markers that have come."""
    monkeypatch.setattr(bridge, "AGAIN", 0.05)
    name, come = stream_name(), []
    lsl = bridged(lab.rig("cameras"), from_=name)
    lsl.lab.hub.subscribe("LslMarker", come.append)
    return lsl, name, come


@pytest.fixture
def begun(stack: contextlib.ExitStack) -> Callable[..., Stream]:
    """Begin a stream of another program."""
    return lambda *args, **options: stack.enter_context(Stream(*args, **options))


def push_until(stream: Stream, sample: list[Any], come: list[LslMarker]) -> LslMarker:
    """Push a sample until it comes: a stream that has just been connected may miss the first."""

    def pushed() -> bool:
        stream.push_sample(sample)
        return any(each.value == (sample[0] if len(sample) == 1 else sample) for each in come)

    until(pushed, "the marker")
    return come[-1]


def test_markers_of_a_stream_become_events_which_comes_and_goes_and_comes(
    listening: tuple[LslBridge, str, list[LslMarker]],
    begun: Callable[..., Stream],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lsl, name, come = listening
    caplog.set_level(logging.INFO, "rigsync.bridge")
    until(lambda: f"LSL stream '{name}' is not there yet; the bridge looks for it until it comes" in caplog.text)
    stream = begun(name)
    before, wall = local_clock(), time.time()
    last = push_until(stream, ["first"], come)
    assert before <= last.lsl_time <= local_clock()
    assert last.time is not None
    assert wall - 0.01 <= last.time <= time.time() + 0.01
    del come[:]
    for number in range(600):  # more than are taken in at a time
        stream.push_sample([str(number)], 1.0 + number)
    until(lambda: len([each for each in come if each.value != "first"]) == 600)
    numbered = [each for each in come if each.value != "first"]
    assert [(each.value, each.lsl_time) for each in numbered] == [(str(n), 1.0 + n) for n in range(600)]
    stream.__exit__()
    until(lambda: f"LSL stream '{name}' is lost; the bridge looks for it until it comes" in caplog.text)
    assert push_until(begun(name), ["second"], come).stream == name
    assert lsl.counts == {}


def test_numbers_several_channels_and_bytes_that_are_no_text(
    listening: tuple[LslBridge, str, list[LslMarker]],
    begun: Callable[..., Stream],
    caplog: pytest.LogCaptureFixture,
) -> None:
    lsl, name, come = listening
    stream = begun(name, kind="int32")
    assert push_until(stream, [7], come).value == 7
    stream.__exit__()
    stream = begun(name, channels=2)
    assert push_until(stream, ["a", "b"], come).value == ["a", "b"]
    stream.push_sample(["\udcff", "x" * LONGEST])
    stream.push_sample(["\udcff", "x" * (LONGEST - 1)])
    until(lambda: come[-1].value == ["\ufffd", "x" * (LONGEST - 1)])
    assert lsl.counts == {"too long": 1}
    assert f"a marker of LSL stream '{name}' is too long, and is no event" in caplog.text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rate": 30_000.0, "kind": "float32"}, "has a regular rate of 30000 Hz, and so no markers"),
        ({"channels": 100_000}, "has 100,000 channels, and markers have 100 at most"),
    ],
)
def test_a_stream_that_has_no_markers(
    listening: tuple[LslBridge, str, list[LslMarker]],
    begun: Callable[..., Stream],
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    told: str,
) -> None:
    _, name, come = listening
    stream = begun(name, **options)
    until(lambda: f"'{name}' {told}; the bridge looks for it until it comes" in caplog.text)
    stream.__exit__()
    push_until(begun(name), ["a marker"], come)


def test_a_stream_that_falls_silent_is_searched_again(
    connect: Callable[..., Any],
    begun: Callable[..., Stream],
    stack: contextlib.ExitStack,
    lab: Lab,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(bridge, "AGAIN", 0.05)
    monkeypatch.setattr(bridge, "SILENCE", 3.0)  # more than between two waves of a search
    name, come = stream_name(), list[LslMarker]()
    lsl = stack.enter_context(LslBridge(connect(lab.rig("cameras")), stream_name(), name))
    lsl.lab.hub.subscribe("LslMarker", come.append)
    stream = begun(name)
    push_until(stream, ["there"], come)
    stream.suspend()
    until(lambda: f"LSL stream '{name}' is not there any more" in caplog.text)
    stream.resume()
    push_until(stream, ["again"], come)


def test_markers_that_liblsl_does_not_take_are_counted(
    lab: Lab, bridged: Callable[..., LslBridge], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bridge, "MOST_WAITING", 0)
    lsl = bridged(lab.rig("cameras"))
    lsl.lab.request("EXPINFO")
    until(lambda: lsl.counts["dropped"] >= 2)
    assert caplog.text.count("markers wait for liblsl, and those that come now are dropped") == 1
