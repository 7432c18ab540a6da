"""The section `alerts` of both kinds of files: what it means, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerts.support import SECRET, alerts_in
from rigsync.agent.file import read_agent_file
from rigsync.config.alerts import Desktop, Hook, Webhook, alerts_of
from rigsync.config.files import load_rigs
from rigsync.config.schema import Known, Mistakes
from rigsync.errors import ConfigError

ALL = """\
  - on: [failure, lost, failure]
    webhook: {preset: slack, url_from: SLACK_URL}
  - on: [session end]
    command: [python, tell.py, "{rig}", "what={what}"]
    desktop: yes
  - {on: [disk low], webhook: "https://chat.lab/hooks/abc"}
  - {on: [interrupted], webhook: {url: "http://10.0.0.1:8080", body: {text: "{on}: {what}", n: 1}}}
"""


def test_what_it_means(tmp_path: Path) -> None:
    found = alerts_in(tmp_path, ALL)
    assert [(each.key, each.on) for each in found] == [
        ("alerts[0].webhook", ("failure", "lost")),
        ("alerts[1].command", ("session end",)),
        ("alerts[1].desktop", ("session end",)),
        ("alerts[2].webhook", ("disk low",)),
        ("alerts[3].webhook", ("interrupted",)),
    ]
    assert [each.way for each in found] == [
        Webhook("slack", None, "SLACK_URL", None),
        Hook(("python", "tell.py", "{rig}", "what={what}"), str(tmp_path)),
        Desktop(),
        Webhook(None, "https://chat.lab/hooks/abc", None, None),
        Webhook(None, "http://10.0.0.1:8080", None, {"text": "{on}: {what}", "n": 1}),
    ]
    assert load_rigs(tmp_path / "rigs.yaml").alerts == found
    assert "abc" not in repr(found) + repr(load_rigs(tmp_path / "rigs.yaml"))
    assert "abc" not in str([each.document() for each in found])


def test_an_agent_s_file_has_the_same(tmp_path: Path) -> None:
    path = tmp_path / "left.yaml"
    path.write_text(f"name: left\non: {{EXPINIT: {{run: a}}}}\nalerts:\n{ALL}", encoding="utf-8")
    assert read_agent_file(path).alerts == alerts_in(tmp_path, ALL)
    path.write_text("name: left\non: {EXPINIT: {run: a}}\n", encoding="utf-8")
    assert read_agent_file(path).alerts == ()


MISTAKES = {
    "cause": ("[{on: [failures], desktop: true}]", "alerts[0].on[0]", "did you mean 'failure'?"),
    "no cause": ("[{on: [], desktop: true}]", "alerts[0].on", "expected 1 to 200 items, not 0"),
    "on missing": ("[{desktop: true}]", "alerts[0].on", "this key is missing: What is told."),
    "nobody": ("[{on: [lost]}]", "alerts[0]", "expected at least one of the keys webhook, command, desktop"),
    "nobody after all": (
        "[{on: [lost], desktop: no}]",
        "alerts[0]",
        "nobody is told: write webhook, command or desktop",
    ),
    "key": ("[{on: [lost], webhok: x}]", "alerts[0].webhok", "did you mean 'webhook'?"),
    "preset": (
        "[{on: [lost], webhook: {preset: slak, url_from: A}}]",
        "alerts[0].webhook.preset",
        "did you mean 'slack'?",
    ),
    "no url": (
        "[{on: [lost], webhook: {preset: slack}}]",
        "alerts[0].webhook",
        "at least one of the keys url, url_from",
    ),
    "both": ("[{on: [lost], webhook: {url: 'https://a', url_from: A}}]", "alerts[0].webhook.url", "leave one out"),
    "preset and body": (
        "[{on: [lost], webhook: {preset: teams, url_from: A, body: {a: b}}}]",
        "alerts[0].webhook.body",
        "the preset teams has a body of its own; leave one out",
    ),
    "field": (
        "[{on: [lost], webhook: {url_from: A, body: {a: ['{wath}']}}}]",
        "alerts[0].webhook.body.a[0]",
        "unknown field 'wath'; did you mean 'what'?; the fields here are on, what, rig, exp_ref, host, time, held_back",
    ),
    "brace": ("[{on: [lost], command: [a, '{what']}]", "alerts[0].command[1]", "a '{' without its counterpart"),
    "variable": ("[{on: [lost], webhook: {url_from: 'A-B'}}]", "alerts[0].webhook.url_from", "an environment variable"),
    "ntfy": (
        "[{on: [lost], webhook: {preset: ntfy, url: 'https://ntfy.sh/'}}]",
        "alerts[0].webhook.url",
        "with the topic",
    ),
    "program": ("[{on: [lost], command: ['{what}']}]", "alerts[0].command[0]", "a field would choose the program"),
    "empty": ("[{on: [lost], command: []}]", "alerts[0].command", "expected 1 to 200 items, not 0"),
    "text": ("[{on: [lost], command: echo hello}]", "alerts[0].command", "expected a list, such as [one, two]"),
    "too many": (f"[{', '.join(['{on: [lost], desktop: true}'] * 21)}]", "alerts", "expected 0 to 20 items, not 21"),
    "map": ("{on: [lost]}", "alerts", "expected a list, such as [one, two], not a map"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named_with_file_line_and_key(tmp_path: Path, case: str) -> None:
    text, key, problem = MISTAKES[case]
    rigs, agent = tmp_path / "rigs.yaml", tmp_path / "left.yaml"
    rigs.write_text(f"rigs: {{cameras: 127.0.0.1}}\nalerts: {text}\n", encoding="utf-8")
    agent.write_text(f"name: left\non: {{EXPINIT: {{run: a}}}}\nalerts: {text}\n", encoding="utf-8")
    for read, path, line in ((load_rigs, rigs, 2), (read_agent_file, agent, 3)):
        with pytest.raises(ConfigError) as caught:
            read(path)
        (error,) = caught.value.errors
        assert (error.file, error.line, error.key) == (str(path), line, key)
        assert problem in error.problem


@pytest.mark.parametrize(
    "text",
    [
        f"webhook: 'ftp://a/{SECRET}'",
        f"webhook: {{url: 'https:/a/{SECRET}'}}",
        f"webhook: {{url: ' https://a/{SECRET}'}}",
        f"webhook: {{url: ['https://a/{SECRET}']}}",
        f"webhook: {{preset: 'https://a/{SECRET}', url_from: A}}",
        f"webhook: ['https://a/{SECRET}']",
        f"webhook: {{preset: slack, url: 'https://a/{SECRET}', url_from: A}}",
        f'webhook: {{url: "https://a/{SECRET} x"}}',
    ],
)
def test_no_error_shows_a_url(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        alerts_in(tmp_path, f"  - {{on: [lost], {text}}}\n")
    assert SECRET not in str(caught.value)
    assert "s3cr3t" not in repr(caught.value)


CODE = [
    ["sh", "-c", "echo {what}"],
    ["/bin/bash", "-lc", "echo {what}"],
    ["env", "A=b", "python3", "-c", "print('{what}')"],
    ["python3.11", "-W", "ignore", "-c", "print('{what}')"],
    ["python", "-cprint('{what}')"],
    ["perl", "-e", "{what}"],
    ["osascript", "-e", 'display notification "{what}"'],
    ["matlab", "-batch", "tell('{what}')"],
    ["cmd", "/c", "echo", "{what}"],
    ["C:\\Windows\\system32\\cmd.exe", "/c", "echo {what}"],
    ["powershell", "-Command", "Write-Host '{what}'"],
    ["powershell", "-File", "{what}"],
    ["ssh", "pc", "wall {what}"],
]
TEXT = [
    ["sh", "-c", 'echo "$1"', "sh", "{what}"],
    ["sh", "tell.sh", "-c", "{what}"],
    ["python", "tell.py", "-e", "{what}"],
    ["python", "-m", "tell", "-c", "{what}"],
    ["powershell", "-NoProfile", "-File", "tell.ps1", "{what}"],
    ["tell", "-c", "{what}"],
    ["sh", "-c", 'wall "$RIGSYNC_ALERT_WHAT"'],
]


def checked(words: list[str], windows: bool = False) -> list[str]:
    mistakes = Mistakes()
    found = Known(on=("lost",), webhook=None, command=tuple(words), desktop=False)
    alerts_of([found], Path(), mistakes, windows)
    return [error.problem for error in mistakes]


@pytest.mark.parametrize("words", CODE)
def test_a_field_never_becomes_code(words: list[str]) -> None:
    (problem,) = checked(words)
    assert "would be code here; read it from the environment, where it is RIGSYNC_ALERT_" in problem


@pytest.mark.parametrize("words", TEXT)
def test_a_field_may_be_an_argument(words: list[str]) -> None:
    assert checked(words) == []


def test_on_windows_no_batch_file_gets_a_field() -> None:
    assert checked(["tell.bat", "{what}"]) == []
    (problem,) = checked(["C:\\lab\\tell.CMD", "{what}"], windows=True)
    assert problem == "cmd.exe reads the arguments of a batch file anew, as code; name a program that is none"
