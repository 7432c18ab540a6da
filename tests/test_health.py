"""What is wrong with a rig stays known: to a task that takes over, to whoever comes late, and until it is settled."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Command, environment, run_here
from live_helpers import Lab
from processes import LONG, port_of, until

from rigsync import Auxiliaries, ExperimentError, ExpStatus, PingReply, PushError, Rig
from rigsync.cli.watching import cells_of
from rigsync.coordinator.view import clock_text
from rigsync.core.events import LinkState
from rigsync.core.health import HealthView
from rigsync.core.responder import Responder
from rigsync.net.relay import relay_before
from rigsync.rig.handlers import EndedBadly

REFERENCE = "2026-03-01_2_mouse"
STALLED = "left.mp4 has stopped growing"

Connect = Callable[..., Auxiliaries]


@pytest.fixture
def lab(serve: Callable[..., Rig]) -> Lab:
    return Lab(serve)


def begin(aux: Auxiliaries) -> None:
    aux.request("EXPINIT", {"exp_ref": REFERENCE})
    aux.request("EXPSTART", REFERENCE)


def fail(rig: Rig, problem: str = STALLED, key: str | None = "left.mp4", exp_ref: str = REFERENCE) -> None:
    rig.notify("failure", {"problem": problem, "exp_ref": exp_ref}, key=key)


def recording(lab: Lab, connect: Connect, **options: Any) -> tuple[Rig, Auxiliaries]:
    """Return a rig that records badly, and the task, which goes on."""
    rig = lab.rig("cameras")
    aux = connect(rig, **options)
    begin(aux)
    fail(rig)
    until(lambda: aux.view("cameras").failures)
    return rig, aux


# ------------------------------------------------------------------------------------------------ who comes late


def test_who_comes_late_sees_what_is_wrong_and_since_when(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    rig, _ = recording(lab, connect)
    time.sleep(1.1)  # the log says since when, where that is a second or more
    caplog.clear()
    began = time.time()
    late = connect(rig)
    until(lambda: late.view("cameras").last_failure)
    view = late.view("cameras")
    assert view.failures == {"left.mp4": STALLED}
    assert view.trouble == STALLED
    assert view.last_failure
    assert view.last_failure.time < began - 1.0
    assert view.document()["failures"] == {"left.mp4": STALLED}
    since = f"cameras: {STALLED} (since "  # the other coordinator's line, which may be late, has none
    until(lambda: len([line for line in caplog.messages if line.startswith(since)]) == 1)


def test_who_comes_late_sees_why_the_rig_has_stopped(lab: Lab, connect: Connect) -> None:
    rig, aux = recording(lab, connect)
    rig.interrupt("the recorder has died")
    until(lambda: rig.status is ExpStatus.STOPPED)
    late = connect(rig)
    wrong = f"{STALLED}; the recorder has died"  # told one after the other
    until(lambda: late.view("cameras").trouble == wrong)
    view = late.view("cameras")
    assert (view.status_reason, view.failures) == ("the recorder has died", {"left.mp4": STALLED})
    aux.request("EXPCLEANUP")
    until(lambda: not late.view("cameras").trouble)
    assert late.view("cameras").document()["status_reason"] is None


def test_a_recording_that_has_ended_badly_is_seen_by_all_until_it_is_settled(lab: Lab, connect: Connect) -> None:
    def end(*_: Any) -> None:
        raise EndedBadly("left.mp4 is empty")

    rig = lab.rig("cameras", {"EXPEND": end})
    aux, watcher = connect(rig), connect(rig)
    begin(aux)
    assert isinstance(aux.push("EXPEND", wait=True), PushError)
    wrong = {"EXPEND": "EXPEND: EndedBadly: left.mp4 is empty"}
    late = connect(rig)
    for one in (aux, watcher, late):
        until(lambda one=one: one.view("cameras").failures == wrong)  # type: ignore[misc]
    begin(aux)
    for one in (aux, watcher, late):
        until(lambda one=one: not one.view("cameras").failures)  # type: ignore[misc]


def test_each_is_told_once(lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    rig, aux = recording(lab, connect)
    told: dict[str, list[Any]] = {"task": [], "late": []}
    aux.on_notice("failure", told["task"].append)
    late = connect(rig)
    until(lambda: late.view("cameras").failures)
    late.on_notice("failure", told["late"].append)
    fail(rig, "the disk is full", "disk")
    for heard in told.values():
        until(lambda heard=heard: "disk" in [notice.key for notice in heard])  # type: ignore[misc]
        # The view knew of the other before subscribers were told of it.
        assert [notice.key for notice in heard] in (["disk"], ["left.mp4", "disk"])
    until(lambda: len([line for line in caplog.messages if line.startswith(f"cameras: {STALLED}")]) == 2)  # one each


@pytest.mark.parametrize("arguments", [["watch", "--once"], ["ping", "-c", "3", "-i", "0.3"]], ids=lambda a: a[0])
def test_terminals_show_it_to_who_comes_late(lab: Lab, connect: Connect, tmp_path: Path, arguments: list[str]) -> None:
    rig, _ = recording(lab, connect)
    (tmp_path / "rigs.yaml").write_text(f"rigs:\n  cameras: {rig.uri}\n")
    assert STALLED in run_here(arguments, tmp_path, environment(tmp_path)).out
    told = json.loads(run_here([*arguments, "--json"], tmp_path, environment(tmp_path)).out)["rigs"]["cameras"]
    assert (told["failures"], told["status_reason"]) == ({"left.mp4": STALLED}, None)


def test_ping_tells_how_many_things_are_wrong(lab: Lab, connect: Connect) -> None:
    rig, aux = recording(lab, connect)

    def troubles() -> int:
        reply = aux.ping()["cameras"]
        assert isinstance(reply, PingReply)
        return reply.troubles

    assert troubles() == 1
    rig.notify("recovered", None, key="left.mp4")
    # The rig's loop may be reading datagrams just then, and answers the next ping before it takes the notice.
    until(lambda: troubles() == 0)


def test_all_that_a_lost_rig_has_said_is_marked_as_last_heard(lab: Lab, connect: Connect, tmp_path: Path) -> None:
    rig, aux = recording(lab, connect)
    rig.progress("frames", 1200)
    until(lambda: aux.view("cameras").progress)
    (tmp_path / "rigs.yaml").write_text(f"rigs:\n  cameras: {rig.uri}\n")
    address = rig.uri.removeprefix("udp://")
    with Command(["ping", "-i", "0.05", "-W", "0.2"], tmp_path, environment(tmp_path)) as command:
        assert f", RUNNING {REFERENCE}, 1 thing wrong, seq=1 " in command.line(f"cameras ({address}): ")
        rig.close()
        command.line(f"cameras ({address}): refused, seq=")
        command.interrupt()
        out = command.outcome().out
    assert re.search(r"^cameras +lost ", out, re.MULTILINE), out
    assert re.search(rf"^cameras: last heard \d\d:\d\d:\d\d: \w+ {REFERENCE}; {STALLED}", out, re.MULTILINE), out
    until(lambda: aux.view("cameras").link is LinkState.LOST)
    view = aux.view("cameras")
    assert view.heard
    assert cells_of(view, ["progress"], time.time()) == [f"last heard {clock_text(view.heard)}: frames 1200"]
    assert view.document()["heard"] == view.heard


# ------------------------------------------------------------------------------------------------- an experiment


def test_a_task_that_takes_over_has_what_is_wrong(lab: Lab, connect: Connect) -> None:
    rig, before = recording(lab, connect, leave_running=True)
    before.close()
    aux = connect(rig)
    session = aux.experiment(REFERENCE, init={"takeover": True})
    session.begin()
    until(lambda: session.failures)
    assert session.failures == {"cameras": STALLED}
    with pytest.raises(ExperimentError, match=STALLED):
        session.check()
    session.end()


def test_a_new_experiment_begins_in_good_health_whatever_was_before(lab: Lab, connect: Connect) -> None:
    rig, before = recording(lab, connect)
    before.request("EXPEND")
    before.close()
    aux = connect(rig)
    with aux.experiment(REFERENCE) as session:  # the same reference, which its EXPINIT begins anew
        until(lambda: not aux.view("cameras").failures)
        assert session.failures == {}
        session.check()


def test_a_notice_of_what_was_wrong_before_does_not_count_however_late_it_comes(lab: Lab, connect: Connect) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig)
    with contextlib.suppress(ExperimentError), aux.experiment(REFERENCE) as session:
        rig.notify("failure", {"problem": "of the first try", "exp_ref": REFERENCE, "age": 100.0}, key="first")
        until(lambda: "first" in aux.view("cameras").failures)
        assert session.failures == {}
        fail(rig)
        until(lambda: session.failures)
        assert session.failures == {"cameras": STALLED}


@pytest.mark.parametrize("age", [1e300, 10**600, 1e17, -1.0, "old"], ids=range(5))
def test_an_age_that_cannot_be_is_none(
    lab: Lab, connect: Connect, caplog: pytest.LogCaptureFixture, age: object
) -> None:
    rig = lab.rig("cameras")
    aux = connect(rig)
    rig.notify("failure", {"problem": STALLED, "age": age}, key="left.mp4")
    until(lambda: f"cameras: {STALLED}" in caplog.messages)
    told = aux.view("cameras").last_failure
    assert told
    assert time.time() - told.time < LONG
    assert "raised an exception" not in caplog.text


def test_information_has_what_is_wrong(lab: Lab, connect: Connect) -> None:
    rig, aux = recording(lab, connect)
    assert aux.request("EXPINFO", "CONNECTED")["cameras"][-1]["failures"] == {"left.mp4": STALLED}
    rig.notify("recovered", None, key="left.mp4")
    until(lambda: not aux.view("cameras").failures)
    assert "failures" not in aux.request("EXPINFO", "CONNECTED")["cameras"][-1]


# --------------------------------------------------------------------------------- a rig that has stopped and gone


def behind_relay(stack: contextlib.ExitStack, rig: Rig) -> dict[str, str]:
    """Return the way to a rig of which nobody says, once it is closed, that nothing listens there."""
    relay = stack.enter_context(relay_before({"cameras": ("127.0.0.1", port_of(rig.uri))}))["cameras"]
    return {"cameras": "udp://{}:{}".format(*relay.address)}


def end_after_goodbye(aux: Auxiliaries, rig: Rig, before: Callable[[], object] = lambda: None) -> None:
    with aux.experiment(REFERENCE):
        before()
        rig.close()
        until(lambda: aux.view("cameras").link is LinkState.LOST)


def test_a_rig_that_has_told_that_it_is_stopped_and_gone_does_not_go_on(
    lab: Lab, connect: Connect, stack: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    rig = lab.rig("cameras")
    aux = connect(behind_relay(stack, rig))
    with pytest.raises(ExperimentError, match="EXPEND failed"):
        end_after_goodbye(aux, rig)
    assert aux.view("cameras").status_reason
    assert "may go on recording" not in caplog.text


def test_a_rig_that_is_gone_without_a_word_of_that_may_go_on(
    lab: Lab,
    connect: Connect,
    stack: contextlib.ExitStack,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = lab.rig("cameras")
    aux = connect(behind_relay(stack, rig))
    send = Responder._send

    def send_goodbye(self: Responder, destination: Any, data: bytes, boot: str) -> bool:
        return b'"kind":"bye"' in data and send(self, destination, data, boot)  # all else that it tells is lost

    with pytest.raises(ExperimentError, match="EXPEND failed"):
        end_after_goodbye(aux, rig, lambda: monkeypatch.setattr(Responder, "_send", send_goodbye))
    assert "cameras may go on recording" in caplog.text


# --------------------------------------------------------------------------------------------- the version before


def test_a_coordinator_of_the_version_before_takes_it_for_notices_as_ever(
    lab: Lab, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig, _ = recording(lab, connect)
    rig.interrupt("the recorder has died")
    until(lambda: rig.status is ExpStatus.STOPPED)
    monkeypatch.setattr(HealthView, "receive", lambda *_: None)  # which has none of this
    caplog.clear()
    late = connect(rig)
    until(lambda: "does not record any more: the recorder has died" in caplog.text)
    until(lambda: f"cameras: {STALLED}" in caplog.text)
    assert late.view("cameras").failures == {}


def test_a_rig_of_the_version_before_is_seen_as_it_tells_it(
    lab: Lab, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Responder, "_add_lasting", lambda *_: None)
    monkeypatch.setattr("rigsync.core.responder.told", lambda _: {})
    rig, aux = recording(lab, connect)
    rig.interrupt("the recorder has died")
    until(lambda: aux.view("cameras").status_reason == "the recorder has died")
    assert aux.view("cameras").failures == {"left.mp4": STALLED}
    late = connect(rig)
    until(lambda: late.view("cameras").status is ExpStatus.STOPPED)
    assert late.view("cameras").trouble == ""
    aux.request("EXPCLEANUP")
    until(lambda: not aux.view("cameras").trouble)
