"""`rigsync alert`, and what `rigsync check` says of alerts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_programs import Outcome, environment, run_here

from alerts.support import SECRET, Web, nothing_listens, status


class Folder:
    """A folder with files, in which commands are run."""

    def __init__(self, path: Path):
        self.path = path

    def rigs(self, *alerts: dict[str, Any]) -> None:
        document = {"rigs": {"cameras": "127.0.0.1:11001"}, "alerts": list(alerts)}
        (self.path / "rigs.yaml").write_text(json.dumps(document), encoding="utf-8")

    def agent(self, *alerts: dict[str, Any]) -> None:
        document = {"name": "left", "on": {"EXPINIT": {"run": "true"}}, "alerts": list(alerts)}
        (self.path / "left.yaml").write_text(json.dumps(document), encoding="utf-8")

    def run(self, *arguments: str, exit_status: int = 0, **environ: str) -> Outcome:
        outcome = run_here(
            arguments, self.path, environment(self.path, **{"DISPLAY": "", "WAYLAND_DISPLAY": "", **environ})
        )
        assert outcome.status == exit_status, outcome
        assert SECRET not in outcome.out + outcome.err
        return outcome


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def hook(script: str) -> dict[str, Any]:
    return {"on": ["failure"], "command": [sys.executable, "-c", script, "{what}"]}


def test_each_is_sent_once_and_told_what_has_become_of_it(folder: Folder) -> None:
    with Web() as web, Web(status(500)) as bad:
        folder.rigs(
            {"on": ["session end", "lost"], "webhook": {"preset": "slack", "url_from": "LAB_SLACK"}},
            {"on": ["lost"], "webhook": bad.url()},
            hook("import sys; sys.exit(4)"),
            hook("import sys; open('told', 'w').write(sys.argv[1])"),
        )
        outcome = folder.run("alert", "--test", exit_status=1, LAB_SLACK=web.url())
        assert [body["text"].split(" (")[0] for body in web.bodies] == [
            "session end: this is a test: nothing has happened"
        ]
        assert len(bad.bodies) == 1
    lines = outcome.out.splitlines()
    assert lines[1].split() == ["alerts[0].webhook", "session", "end,", "lost", "webhook", "slack", "sent"]
    assert lines[2].endswith("the address answered 500 Internal Server Error; look at the service")
    assert lines[3].endswith("ended with exit status 4")
    assert lines[4].endswith("sent")
    assert (folder.path / "told").read_text() == "this is a test: nothing has happened"


def test_all_well_is_exit_status_0_also_in_json(folder: Folder) -> None:
    with Web() as web:
        folder.agent({"on": ["failure"], "webhook": web.url()})
        document = json.loads(folder.run("alert", "left.yaml", "--test", "--json").out)
        assert len(web.bodies) == 1
    told = {"key": "alerts[0].webhook", "on": ["failure"], "by": "webhook", "url": "***", "url_from": None}
    assert document == {"file": "left.yaml", "test": True, "alerts": [{**told, "problem": None}]}


def test_without_test_nobody_is_told(folder: Folder) -> None:
    folder.rigs({"on": ["lost"], "webhook": nothing_listens()}, {"on": ["lost"], "webhook": {"url_from": "LAB_X"}})
    outcome = folder.run("alert", exit_status=1)
    assert "alerts[0].webhook  lost  webhook   ok" in outcome.out
    assert "the environment variable LAB_X is not set; set it to the webhook's URL" in outcome.out
    folder.run("alert", LAB_X=nothing_listens())


def test_a_file_without_alerts_and_wrong_usage(folder: Folder) -> None:
    folder.rigs()
    assert "nobody is told of anything: write a section alerts:" in folder.run("alert", exit_status=2).err
    assert "give either FILE or --rigs FILE" in folder.run("alert", "a.yaml", "--rigs", "b.yaml", exit_status=2).err
    assert "there is no file of rigs" not in folder.run("alert", "gone.yaml", exit_status=2).err


def test_check_says_what_cannot_be_told_from_here(folder: Folder) -> None:
    gone = {"on": ["lost"], "command": ["nothing-of-the-kind", "{what}"]}
    secret = {"on": ["lost"], "webhook": f"https://chat.lab/{SECRET}"}
    desktop = {"on": ["lost"], "desktop": True}
    folder.rigs(gone, secret, desktop)
    folder.agent(gone, secret, desktop)
    for file, place in (("rigs.yaml", ()), ("left.yaml", ("agent",))):
        outcome = folder.run("check", file, exit_status=1)
        assert (
            "Error: alerts[0].command (command nothing-of-the-kind): the program 'nothing-of-the-kind'" in outcome.err
        )
        assert "alerts[1]" not in outcome.err
        found = json.loads(folder.run("check", file, "--json", exit_status=1).out)
        for key in place:
            found = found[key]
        assert [bool(each["problem"]) for each in found["alerts"]][:2] == [True, False]
        assert found["alerts"][1]["url"] == "***"
    folder.rigs(secret)
    folder.run("check", "rigs.yaml")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="there is a desktop, as far as one can tell")
def test_a_missing_desktop_is_a_warning_since_the_file_may_be_another_computer_s(folder: Folder) -> None:
    folder.rigs({"on": ["lost"], "desktop": True})
    (line,) = [line for line in folder.run("check").err.splitlines() if "alerts" in line]
    assert line.startswith("Warning: alerts[0].desktop (desktop): there is no desktop: this program was not started")
