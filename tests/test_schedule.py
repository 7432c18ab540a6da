"""Acting at one instant, with real rigs: who acts when, what the result says of it, and what is refused."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from processes import LONG, PROBE_WARNING, IblutilServer, port_of, until

from rigsync import Auxiliaries, Cancelled, ExpStatus, Interrupted, PushError, Rig
from rigsync.core.clock import StampClock
from rigsync.net.relay import relay_before
from rigsync.runtime.precise import wait_until

REFERENCE = "2026-03-01_2_mouse"


class Recorder:
    """A rig that notes when its handler of EXPSTART was entered."""

    def __init__(self, stack: contextlib.ExitStack, name: str = "cameras", is_coroutine: bool = False):
        self.entered: list[float] = []
        self.rig = Rig(name, "udp://127.0.0.1:0")
        if is_coroutine:

            @self.rig.on("EXPSTART")
            async def begin() -> None:
                self.entered.append(time.monotonic())

        else:
            self.rig.on("EXPSTART")(lambda: self.entered.append(time.monotonic()))
        stack.enter_context(self.rig)


def coordinate(stack: contextlib.ExitStack, *recorders: Recorder, **uris: str) -> Auxiliaries:
    aux = stack.enter_context(Auxiliaries({rec.rig.name: rec.rig.uri for rec in recorders} | uris))
    aux.request("EXPINIT", REFERENCE)
    return aux


def too_early(aux: Auxiliaries, rig: str) -> float:
    """Return the seconds by which a rig may act before the instant that it is given now.

    Its clock is known that badly, and better by the time that it answers: the bound in the result is another one. The
    estimate at the push is another than this one, and both are at most this one's bound off.
    """
    assert aux.services
    clock = aux.services[rig].clock
    assert clock
    return 2 * float(clock.bound)


@pytest.mark.parametrize("is_coroutine", [False, True], ids=["thread", "coroutine"])
def test_rigs_act_at_the_instant_and_say_when(stack: contextlib.ExitStack, is_coroutine: bool) -> None:
    recorders = [Recorder(stack, name, is_coroutine) for name in ("cameras", "ephys")]
    aux = coordinate(stack, *recorders)
    early = {recorder.rig.name: too_early(aux, recorder.rig.name) for recorder in recorders}
    begin, begin_wall = time.monotonic(), time.time()
    request_time = aux.push("EXPSTART", REFERENCE, delay=0.3)
    pushed, pushed_wall = time.monotonic(), time.time()
    result = until(lambda: aux.response(request_time))
    assert begin_wall + 0.3 - 1e-3 <= result.at <= pushed_wall + 0.3 + 1e-3
    for recorder in recorders:
        (entered,) = recorder.entered
        start = result.starts[recorder.rig.name]
        # All are this computer's clock: the rig acts at the instant or later, then says so, and then its handler runs.
        assert start.time >= result.at - early[recorder.rig.name] - start.bound - 1e-3
        assert entered - begin >= 0.3 - early[recorder.rig.name] - 1e-3
        assert start.time - pushed_wall <= entered - pushed + start.bound + 1e-3
        assert not start.is_estimate
        assert start.bound > 0
    assert result.skew == pytest.approx(abs(result.starts["cameras"].time - result.starts["ephys"].time))
    assert all(recorder.rig.status is ExpStatus.RUNNING for recorder in recorders)


def test_at_is_unix_time(stack: contextlib.ExitStack) -> None:
    recorder = Recorder(stack)
    aux = coordinate(stack, recorder)
    early = too_early(aux, "cameras")
    at = time.time() + 0.25
    result = aux.request("EXPSTART", at=at)
    assert result.at == pytest.approx(at, abs=0.01)
    assert result.starts["cameras"].time >= at - early - result.starts["cameras"].bound - 1e-3


def test_rig_without_a_handler_keeps_the_instant_too(stack: contextlib.ExitStack) -> None:
    rig = stack.enter_context(Rig("imaging", "udp://127.0.0.1:0"))
    aux = coordinate(stack, imaging=rig.uri)
    early = too_early(aux, "imaging")
    begin = time.monotonic()
    request_time = aux.push("EXPSTART", delay=0.3)
    until(lambda: aux.services["imaging"].peer.requests.errands.current is not None)  # type: ignore[index,union-attr]
    status = rig.status
    assert status is ExpStatus.INITIALIZED or time.monotonic() - begin >= 0.3 - early - 1e-3
    result = until(lambda: aux.response(request_time))
    assert rig.status is ExpStatus.RUNNING
    assert result.starts["imaging"].time >= result.at - early - result.starts["imaging"].bound - 1e-3


@pytest.mark.parametrize("message", ["EXPEND", "EXPINTERRUPT"])
def test_what_still_waits_is_called_off(stack: contextlib.ExitStack, message: str) -> None:
    recorder = Recorder(stack)
    aux = coordinate(stack, recorder)
    waiting = aux.push("EXPSTART", delay=LONG)
    aux.ping("cameras")  # has come after it
    until(lambda: recorder.rig._session.responder.agenda._timed)  # type: ignore[union-attr]
    aux.request(message)
    failure = until(lambda: aux.response(waiting)).failed["cameras"]
    assert isinstance(failure, Cancelled if message == "EXPEND" else Interrupted)
    assert recorder.rig.status is ExpStatus.STOPPED
    assert recorder.entered == []


def test_closing_calls_off_what_still_waits(stack: contextlib.ExitStack) -> None:
    recorder = Recorder(stack)
    aux = coordinate(stack, recorder)
    aux.push("EXPSTART", delay=LONG)
    until(lambda: recorder.rig._session.responder.agenda._timed)  # type: ignore[union-attr]
    aux.close()
    until(lambda: not recorder.rig._session.responder.agenda.tasks)  # type: ignore[union-attr]
    assert recorder.rig.status is ExpStatus.INITIALIZED
    assert recorder.entered == []


def test_timeout_counts_from_the_instant(stack: contextlib.ExitStack) -> None:
    recorder = Recorder(stack)
    aux = coordinate(stack, recorder)
    assert "cameras" in aux.request("EXPSTART", delay=2.0, timeout=1.5)


@pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")
def test_iblutil_rig_is_told_half_a_round_trip_before_and_its_start_is_an_estimate(
    stack: contextlib.ExitStack,
) -> None:
    old = stack.enter_context(IblutilServer("old"))
    recorder = Recorder(stack)
    aux = coordinate(stack, recorder, old=old.uri)
    round_trip = aux.services["old"].peer.round_trip  # type: ignore[index,union-attr]
    begin = time.monotonic()
    request_time = aux.push("EXPSTART", REFERENCE, delay=0.4)
    until(lambda: recorder.rig._session.responder.agenda._timed)  # type: ignore[union-attr]
    told = "EXPSTART" in old.calls
    assert not told or time.monotonic() - begin >= 0.4 - round_trip / 2 - 1e-3
    result = until(lambda: aux.response(request_time))
    start = result.starts["old"]
    assert start.is_estimate
    assert start.time + start.bound >= result.at - round_trip / 2 - 1e-3
    assert start.time <= time.time()
    assert not result.starts["cameras"].is_estimate


@pytest.mark.filterwarnings(f"ignore:{PROBE_WARNING}:RuntimeWarning")
def test_iblutil_rig_is_not_told_what_was_called_off(stack: contextlib.ExitStack) -> None:
    old = stack.enter_context(IblutilServer("old"))
    aux = coordinate(stack, old=old.uri)
    waiting = aux.push("EXPSTART", REFERENCE, delay=LONG)
    aux.request("EXPEND")
    assert isinstance(aux.response(waiting).failed["old"], Cancelled)
    assert "EXPSTART" not in old.calls


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("delay", ["1", True, [1], {}, datetime(2026, 3, 1), 1j])
def test_an_instant_of_the_wrong_type_is_refused_at_the_call(stack: contextlib.ExitStack, delay: Any) -> None:
    recorder = Recorder(stack)
    aux = coordinate(stack, recorder)
    with pytest.raises(TypeError, match="delay is a number of seconds from now"):
        aux.push("EXPSTART", delay=delay)
    with pytest.raises(TypeError, match="at is a number of seconds of Unix time"):
        aux.push("EXPSTART", at=delay)
    assert recorder.entered == []


@pytest.mark.parametrize("delay", [0, -1, 3601, math.inf, -math.inf, math.nan, 500_000, 10**400])
def test_an_absurd_delay_is_refused_at_the_call(stack: contextlib.ExitStack, delay: float) -> None:
    aux = coordinate(stack, Recorder(stack))
    with pytest.raises(ValueError, match="not an instant within the hour ahead"):
        aux.push("EXPSTART", delay=delay)


@pytest.mark.parametrize("factor", [0.5, 1e3, 1e6, 1e9])
def test_an_instant_in_another_unit_is_refused_at_the_call(stack: contextlib.ExitStack, factor: float) -> None:
    aux = coordinate(stack, Recorder(stack))
    with pytest.raises(ValueError, match=r"seconds of Unix time, as time\.time\(\) gives"):
        aux.push("EXPSTART", at=(time.time() + 1) * factor)


def test_two_instants_or_one_for_an_interrupt_are_refused(stack: contextlib.ExitStack) -> None:
    aux = coordinate(stack, Recorder(stack))
    with pytest.raises(ValueError, match="not as both"):
        aux.push("EXPSTART", at=time.time() + 1, delay=1)
    with pytest.raises(ValueError, match="acts at once"):
        aux.push("EXPINTERRUPT", delay=1)


def test_one_failing_rig_of_a_scheduled_start_is_named(stack: contextlib.ExitStack) -> None:
    recorder = Recorder(stack)
    failing = Rig("failing", "udp://127.0.0.1:0")

    @failing.on("EXPSTART")
    def fail() -> None:
        raise OSError("no camera")

    stack.enter_context(failing)
    aux = coordinate(stack, recorder, failing=failing.uri)
    outcome = aux.push("EXPSTART", delay=0.2, wait=True)
    assert isinstance(outcome, PushError)
    assert list(outcome.failed) == ["failing"]
    assert list(outcome.result.starts) == ["cameras"]
    assert outcome.result.skew is None


# ------------------------------------------------------------------------------------------------------- waiting


def test_waiting_ends_at_the_instant_and_never_before() -> None:
    for ahead in (0.0, 1e-4, 0.003, 0.03):
        instant = time.monotonic() + ahead
        wait_until(instant, time.monotonic, lambda: False)
        assert time.monotonic() >= instant


@pytest.mark.skipif(not os.path.exists("/proc/self/timerslack_ns"), reason="only Linux wakes threads late on purpose")
def test_who_waits_for_an_instant_is_not_woken_later_together_with_others() -> None:
    slack: list[str] = []

    def wait() -> None:
        wait_until(time.monotonic() + 0.001, time.monotonic, lambda: False)
        slack.append(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert slack == ["1\n"]


def test_waiting_ends_where_it_is_given_up() -> None:
    given_up = threading.Event()
    given_up.set()
    wait_until(time.monotonic() + 1e6, time.monotonic, given_up.is_set)


def test_what_comes_after_its_instant_is_done_at_once_and_the_result_says_when(
    stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(stack)
    slow = stack.enter_context(relay_before({"cameras": ("127.0.0.1", port_of(recorder.rig.uri))}, seed=1))["cameras"]
    aux = coordinate(stack, cameras="udp://{}:{}".format(*slow.address))
    slow.delay = (0.3, 0.3)
    result = aux.request("EXPSTART", delay=0.05)
    late = result.starts["cameras"].time - result.at
    assert late >= 0.25 - result.starts["cameras"].bound - 1e-3
    assert len(recorder.entered) == 1
    until(lambda: any("after its instant" in message for message in caplog.messages))


class Off(Rig):
    """A rig whose wall clock is some seconds off."""

    seconds = 0.0

    def _make_responder(self, handled: Any, timing: Any, boot: str, stamps: StampClock) -> Any:
        return super()._make_responder(
            handled, timing, boot, StampClock(stamps.stamp(0.0) + round(self.seconds * 1e9), 0.0)
        )


def test_rigs_whose_clocks_are_minutes_apart_begin_together(stack: contextlib.ExitStack) -> None:
    entered: dict[str, float] = {}
    rigs = []
    for name, seconds in (("ahead", 90.0), ("right", 0.0), ("behind", -300.0)):
        rig = Off(name, "udp://127.0.0.1:0")
        rig.seconds = seconds
        rig.on("EXPSTART")(lambda *_, name=name: entered.update({name: time.monotonic()}))
        rigs.append(stack.enter_context(rig))
    aux = coordinate(stack, **{rig.name: rig.uri for rig in rigs})
    early = max(too_early(aux, rig.name) for rig in rigs)
    begin = time.monotonic()
    request_time = aux.push("EXPSTART", delay=0.3)
    result = until(lambda: aux.response(request_time))
    bound = max(start.bound for start in result.starts.values())
    assert aux.services["ahead"].clock.offset == pytest.approx(90.0, abs=bound + 1e-3)  # type: ignore[index,union-attr]
    assert aux.services["behind"].clock.offset == pytest.approx(-300.0, abs=bound + 1e-3)  # type: ignore[index,union-attr]
    for name in entered:
        assert entered[name] - begin >= 0.3 - early - 1e-3
        told = result.starts[name].time - result.at
        assert -early - bound - 1e-3 <= told <= entered[name] - begin - 0.3 + bound + 1e-3
