"""Alerts of real rigs, tasks and agents: told in time, tried again, given up, and never in the way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from cli_programs import Command, environment
from live_helpers import Gate
from processes import LONG, until

from alerts.support import REFERENCE, SECRET, Web, alert, hang, happening, nothing_listens, status, webhook
from rigsync import Auxiliaries, Coordinator, ExperimentError, Hub, Journal, Rig
from rigsync.agent.agent import Agent
from rigsync.agent.file import read_agent_file
from rigsync.alerts import plan, sender
from rigsync.alerts.sender import Sender
from rigsync.cli.happened import lines_of
from rigsync.config.files import load_rigs
from rigsync.core.timing import Timing
from rigsync.hub.events import AlertEvent, AlertFailed, AlertSent


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gather for a moment only, and try again soon."""
    monkeypatch.setattr(plan, "GATHER", 0.05)
    monkeypatch.setattr(plan, "_PACE", Timing(resend_first=0.05, resend_max=0.1))


class Lab:
    """A file of rigs with alerts, and its rigs."""

    def __init__(self, folder: Path, serve: Callable[..., Rig]):
        self.folder, self._serve = folder, serve
        self.rigs: dict[str, Rig] = {}

    def rig(self, name: str = "cameras", **handlers: Any) -> Rig:
        rig = self.rigs[name] = self._serve(name, handlers)
        return rig

    def file(self, *alerts: dict[str, Any], name: str = "rigs.yaml") -> Path:
        document = {"rigs": {name: rig.uri for name, rig in self.rigs.items()}, "alerts": list(alerts)}
        path = self.folder / name
        path.write_text(json.dumps(document), encoding="utf-8")
        return path


@pytest.fixture
def lab(tmp_path: Path, serve: Callable[..., Rig]) -> Lab:
    return Lab(tmp_path, serve)


ALL = ["failure", "lost", "interrupted", "session end", "disk low"]


def by_web(web: Web | str, *on: str) -> dict[str, Any]:
    return {"on": list(on) or ALL, "webhook": {"url": web if isinstance(web, str) else web.url()}}


def heard(aux: Any) -> list[AlertEvent]:
    found: list[AlertEvent] = []
    aux.hub.subscribe(AlertEvent, found.append)
    return found


@contextmanager
def failing_experiment(aux: Auxiliaries) -> Iterator[Any]:
    """An experiment that goes on though a rig fails, which it tells of at its end."""
    with contextlib.suppress(ExperimentError), aux.experiment(REFERENCE, on_failure=lambda _: None) as session:
        yield session


def whats(web: Web) -> list[tuple[str, str]]:
    return [(body["on"], body["what"]) for body in web.bodies]


# ------------------------------------------------------------------------------------------------- what is told


def test_a_failure_is_told_while_the_session_goes_on_and_its_end_before_close_returns(lab: Lab) -> None:
    rig = lab.rig()
    with Web() as web:
        with Auxiliaries.from_file(lab.file(by_web(web))) as aux:
            told = heard(aux)
            rig.notify("failure", {"problem": "before anything was begun"})
            with failing_experiment(aux) as session:
                rig.notify("failure", {"problem": "the lamp is dark"}, key="lamp")
                until(lambda: told)
                assert isinstance(told[0], AlertSent)
                assert (told[0].alert, told[0].on, told[0].rigs) == (
                    "alerts[0].webhook (webhook)",
                    "failure",
                    ["cameras"],
                )
                assert (told[0].exp_ref, told[0].tries) == (REFERENCE, 1)
                assert session.failures
        first, last = whats(web)
    assert first == ("failure", "cameras: the lamp is dark")
    assert last[0] == "session end"
    assert last[1].startswith("cameras: the session has ended after 0:0")
    assert SECRET not in repr(told)


def test_who_only_watches_tells_nothing_and_who_is_in_charge_tells_once(lab: Lab) -> None:
    rig = lab.rig()
    with Web() as web:
        file = lab.file(by_web(web, "failure"))
        with Auxiliaries.from_file(file) as other, Auxiliaries.from_file(file) as aux:
            seen: list[Any] = []
            other.on("notice", seen.append)
            with failing_experiment(aux):
                rig.notify("failure", {"problem": "no signal"})
                until(lambda: web.bodies and [notice for notice in seen if notice.topic == "failure"])
        assert whats(web) == [("failure", "cameras: no signal")]


def test_a_task_that_fails_is_told_as_an_interrupt(lab: Lab) -> None:
    lab.rig()
    with Web() as web:
        file = lab.file(by_web(web, "interrupted"))
        with pytest.raises(ZeroDivisionError), Auxiliaries.from_file(file) as aux, aux.experiment(REFERENCE):
            raise ZeroDivisionError("no trials")
        assert whats(web) == [("interrupted", "cameras: EXPINTERRUPT: no trials")]


def test_a_rig_that_is_lost_is_told(lab: Lab) -> None:
    rig, stays = lab.rig(), lab.rig("ephys")
    with Web() as web:
        with Auxiliaries.from_file(lab.file(by_web(web, "lost"))) as aux:
            begun = aux.begin(REFERENCE, on_failure=lambda _: None)
            rig.close()
            until(lambda: web.bodies)
            with pytest.raises(ExperimentError):
                begun.end()
        ((on, what),) = whats(web)
    assert (on, stays.name in what) == ("lost", False)
    assert what.startswith("cameras: ")


def test_on_an_event_loop_it_is_the_same(lab: Lab) -> None:
    lab.rig()

    async def main() -> None:
        file = lab.file(by_web(web, "session end"))
        async with Coordinator.from_file(file) as aux, aux.experiment(REFERENCE):
            pass

    with Web() as web:
        asyncio.run(main())
        assert [on for on, _ in whats(web)] == ["session end"]


def test_a_filter_of_the_program_silences_nobody(lab: Lab) -> None:
    rig = lab.rig()
    with Web() as web, Auxiliaries.from_file(lab.file(by_web(web, "failure"))) as aux:
        aux.hub.filter(lambda event: True)
        with failing_experiment(aux):
            rig.notify("failure", {"problem": "no signal"})
            until(lambda: web.bodies)


PROGRAM = """
import sys
from rigsync import Auxiliaries
aux = Auxiliaries.from_file(sys.argv[1])
aux.begin("2026-11-30_1_mouse")
"""


def test_a_program_that_just_ends_tells_of_the_interrupt(lab: Lab) -> None:
    lab.rig()
    with Web() as web:
        command = [sys.executable, "-c", PROGRAM, str(lab.file(by_web(web, "interrupted")))]
        subprocess.run(command, check=True, env=environment(lab.folder), timeout=LONG)
        assert [on for on, _ in whats(web)] == ["interrupted"]


# ------------------------------------------------------------------------------------------- what does not work


@pytest.mark.parametrize("answer", [hang, status(500), status(302, Location="http://127.0.0.1:1/login")])
def test_an_experiment_is_undisturbed_by_an_address_that_does_not_work(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: Callable[..., None]
) -> None:
    monkeypatch.setattr(sender, "LONGEST_REQUEST", 2.0)
    monkeypatch.setattr(plan, "TRIES", 3)
    rig = lab.rig()
    with Web(answer) as web, Auxiliaries.from_file(lab.file(by_web(web, "failure"))) as aux:
        told = heard(aux)
        with failing_experiment(aux):
            rig.notify("failure", {"problem": "no signal"})
            until(lambda: web.requests)
            for _ in range(20):
                aux.request("EXPSTATUS")
            until(lambda: told)
        assert 1 <= len(web.requests) <= 3  # a busy computer may not see each within its time
    (event,) = told
    assert isinstance(event, AlertFailed)
    assert (event.tries, event.what) == (3, "cameras: no signal")
    (line,) = [record.getMessage() for record in caplog.records if "nobody was told" in record.getMessage()]
    assert line.startswith("alerts[0].webhook (webhook): nobody was told of failure after 3 tries: ")
    assert line.endswith(": cameras: no signal")
    assert SECRET not in caplog.text


def test_it_is_tried_again_until_it_works(lab: Lab) -> None:
    codes = iter([500, 503, 200])
    rig = lab.rig()
    with Web(lambda *about: status(next(codes))(*about)) as web:
        with Auxiliaries.from_file(lab.file(by_web(web, "failure"))) as aux:
            told = heard(aux)
            with failing_experiment(aux):
                rig.notify("failure", {"problem": "no signal"})
                until(lambda: told)
        assert isinstance(told[0], AlertSent)
        assert told[0].tries == len(web.requests) == 3


def test_one_that_hangs_holds_up_no_other_alert_and_no_close(lab: Lab) -> None:
    rig = lab.rig()
    with Web(hang) as hanging, Web() as web:
        with Auxiliaries.from_file(lab.file(by_web(hanging), by_web(web))) as aux:
            with failing_experiment(aux):
                rig.notify("failure", {"problem": "no signal"})
                until(lambda: hanging.requests and web.bodies)
            told = heard(aux)
            begun = time.monotonic()
        assert time.monotonic() - begun < LONG / 3  # 2 s, and what a busy computer takes
        until(lambda: len(web.bodies) == 2)
    assert [type(event) for event in told if event.alert.startswith("alerts[0]")] == [AlertFailed, AlertFailed]


def test_a_command_that_never_ends_disturbs_nobody_and_nothing_is_left_of_it(lab: Lab) -> None:
    rig = lab.rig()
    script = "import pathlib, time; pathlib.Path('told').touch(); time.sleep(1000)"
    hook = {"on": ["failure"], "command": [sys.executable, "-c", script, "{what}"]}
    with Auxiliaries.from_file(lab.file(hook)) as aux:
        told = heard(aux)
        with failing_experiment(aux):
            rig.notify("failure", {"problem": "no signal"})
            until(lambda: (lab.folder / "told").exists())
            aux.request("EXPSTATUS")
    (event,) = told  # the fixture of all tests looks for children
    assert isinstance(event, AlertFailed)


def test_thousands_of_failures_are_few_alerts(lab: Lab) -> None:
    rig = lab.rig()
    with Web() as web:
        with Auxiliaries.from_file(lab.file(by_web(web, "failure"))) as aux:
            count: list[Any] = []
            aux.hub.subscribe("notice", count.append)
            with failing_experiment(aux):
                for n in range(2000):
                    rig.notify("failure", {"problem": f"failure {n}"}, key=str(n % 7))
                until(lambda: sum(notice.topic == "failure" for notice in count) == 2000)
                until(lambda: web.bodies)
        first, last = web.bodies  # the second at the end
    assert first["what"] == "cameras: failure 0"
    assert (last["what"], last["held_back"]) == ("cameras: failure 1999", 1998)


def test_what_comes_while_nobody_can_be_told_is_bounded(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    monkeypatch.setattr(sender, "MOST_WAITING", 10)
    monkeypatch.setattr(sender, "tell", gate)
    found: list[Any] = []
    one = Sender(alert(webhook(nothing_listens())), found.append)
    one.offer(happening("first"))
    assert gate.reached.wait(LONG)
    for n in range(100):
        one.offer(happening(str(n), rig=str(n)))
    assert one._news.qsize() == 10
    assert one._left_out == 90
    gate.open.set()
    one.end(LONG)
    one.ended.result(LONG)
    assert {type(event) for event in found} == {AlertSent}
    one.offer(happening("after the end"))
    assert threading.active_count() >= 1


def test_no_thread_for_it_is_told_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    with Web() as web:
        one = Sender(alert(webhook(web.url())), lambda _: None)
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", no_thread)
            one.offer(happening("first"))
        assert "nobody is told for now: can't start new thread" in caplog.text
        one.offer(happening("second", "ephys"))
        until(lambda: web.bodies)
        one.end(LONG)
        one.ended.result(LONG)
    assert web.bodies[0]["what"] == "cameras: first; ephys: second"


def test_a_fault_of_rigsync_s_own_loses_one_alert_and_not_the_rest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def tell(_: Any, values: Any, __: Any) -> None:
        told.append(values["what"])
        if len(told) == 1:
            raise ZeroDivisionError

    monkeypatch.setattr(sender, "tell", tell)
    one = Sender(alert(webhook(nothing_listens())), lambda _: None)
    one.offer(happening("first"))
    until(lambda: "it cannot be told: ZeroDivisionError" in caplog.text)
    one.offer(happening("second", "ephys"))
    until(lambda: len(told) == 2)
    one.end(LONG)
    one.ended.result(LONG)


def test_without_alerts_there_is_no_thread_and_no_http(tmp_path: Path) -> None:
    program = (
        "import sys, threading; from rigsync import Auxiliaries, Rig\n"
        "with Rig('cameras', 'udp://127.0.0.1:0') as rig, Auxiliaries({'cameras': rig.uri}) as aux:\n"
        "    with aux.experiment('2026-11-30_1_mouse'): pass\n"
        "    print([thread.name for thread in threading.enumerate() if 'alert' in thread.name])\n"
        "print('rigsync.alerts.sender' in sys.modules, 'http.client' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=LONG)
    assert done.stdout == "[]\nFalse False\n"


# ------------------------------------------------------------------------------------------------------- agents


def agent_file(folder: Path, *alerts: dict[str, Any], **keys: Any) -> Path:
    sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
    on = {"EXPSTART": {"start": sleep}, "EXPEND": {"stop": {"signal": "kill"}}}
    document = {"name": "cameras", "listen": "udp://127.0.0.1:0", "on": on, "alerts": list(alerts), **keys}
    path = folder / "cameras.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def start(*alerts: dict[str, Any], **keys: Any) -> Agent:
        one = Agent(read_agent_file(agent_file(tmp_path, *alerts, **keys)))
        agents.append(one)
        one.start()
        return one

    yield start
    for one in agents:
        one.close()


def test_an_agent_tells_of_its_recorder_s_death_and_of_its_session_s_end(agent: Callable[..., Agent]) -> None:
    with Web() as web:
        one = agent(by_web(web))
        with Auxiliaries({"cameras": one.uri}) as aux, failing_experiment(aux):
            (pid,) = until(lambda: [stream["pid"] for stream in aux.view("cameras").streams.values()])
            psutil.Process(pid).kill()
            until(lambda: {on for on, _ in whats(web)} >= {"failure", "session end"})
    told = dict(whats(web))
    assert "was killed from outside" in told["failure"]
    assert "the recording was interrupted after 0:0" in told["session end"]
    assert {body["exp_ref"] for body in web.bodies} == {REFERENCE}


def test_what_an_agent_has_to_tell_at_its_end_is_told(agent: Callable[..., Agent]) -> None:
    with Web() as web:
        one = agent(by_web(web, "interrupted"))
        with Auxiliaries({"cameras": one.uri}) as aux:
            aux.begin(REFERENCE, on_failure=lambda _: None)
            one.close()
            assert whats(web) == [("interrupted", "cameras: EXPINTERRUPT: the rig's program is being closed")]


def test_serve_tells_and_ends(tmp_path: Path) -> None:
    with Web() as web:
        agent_file(tmp_path, by_web(web, "session end"))
        with Command(["serve", "cameras.yaml", "--json"], tmp_path, environment(tmp_path)) as command:
            uri = json.loads(command.line('{"rig"'))["listening"]
            with Auxiliaries({"cameras": uri}) as aux, aux.experiment(REFERENCE):
                pass
            until(lambda: web.bodies)
            command.interrupt()
            assert command.outcome().status == 0
    assert whats(web)[0][1].startswith("cameras: the recording has ended after 0:0")


def test_hubs_of_one_s_own_are_let_go(lab: Lab) -> None:
    lab.rig()

    async def main() -> None:
        file = lab.file(by_web(web, "session end"))
        async with Hub("mine") as hub:
            for _ in range(2):
                async with Coordinator(load_rigs(file), hub=hub) as aux, aux.experiment(REFERENCE):
                    pass

    with Web() as web:
        asyncio.run(main())
        assert len(web.bodies) == 2  # of the second by the second alone


def test_a_url_that_is_not_set_is_told_when_the_program_begins(
    lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAB_URL", raising=False)
    rig = lab.rig()
    with Auxiliaries.from_file(lab.file({"on": ["failure"], "webhook": {"url_from": "LAB_URL"}})) as aux:
        assert (
            "alerts[0].webhook (webhook): nobody can be told: the environment variable LAB_URL is not set"
            in caplog.text
        )
        told = heard(aux)
        with failing_experiment(aux):
            rig.notify("failure", {"problem": "no signal"})
            until(lambda: told)
    assert isinstance(told[0], AlertFailed)
    assert (told[0].tries, told[0].problem) == (
        1,
        "the environment variable LAB_URL is not set; set it to the webhook's URL",
    )


def test_the_journal_has_what_became_of_each_and_no_url(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIGSYNC_JOURNAL")
    rig, path = lab.rig(), tmp_path / "journal" / "journal.sqlite"
    with Web() as web, Web(status(404)) as bad:
        file = lab.file(by_web(web, "session end"), by_web(bad, "session end"))
        with Auxiliaries.from_file(file, journal=path) as aux, aux.experiment(REFERENCE):
            assert rig.exp_ref == REFERENCE
    with Journal(path) as journal:
        (session,) = journal.sessions()
        records = {record.kind: record for record in journal.events(kinds=["AlertSent", "AlertFailed"])}
        stalls = len(list(journal.events(kinds=["JournalFailed"])))  # of a drive that was busy just then
    assert (session.outcome, session.failures) == ("complete", stalls)
    assert (records["AlertSent"].failure, records["AlertFailed"].failure) == (False, True)
    assert "404 Not Found" in records["AlertFailed"].data["problem"]
    (line,) = lines_of(records["AlertSent"])
    assert "alerts[0].webhook (webhook) has told session end: cameras: the session has ended" in line.text
    for part in path.parent.iterdir():
        assert b"s3cr3t" not in part.read_bytes(), part
